"""A library in a folder of its own that is built on BMTrain; only layers.py imports it."""
