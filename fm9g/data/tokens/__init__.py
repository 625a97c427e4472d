"""Tokenizers: loading and training them, and what they make of text."""
