"""Continuing rows of token ids. Nothing here knows of text."""
