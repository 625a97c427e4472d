"""From jsonl on disk to token batches: building and reading indexed datasets, tokenizers, mixing, packing."""
