"""Tensors in files: lazy, read and written a piece at a time, as .pt and safetensors."""
