"""Adapters of low rank: OpenDelta's in BMTrain's blocks, what they are, and merged into weights."""
