"""An indexed dataset: built from jsonl, written, checked, and read by number."""
