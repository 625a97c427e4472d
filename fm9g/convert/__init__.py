"""Weights between Hugging Face folders and FM9G's .pt files: bit-exact, streamed, without running anyone's code."""
