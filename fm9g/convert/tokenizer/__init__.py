"""A tokenizer on its way into a Hugging Face folder: its files, its tokenizer.json, and whether the ids stay."""
