"""Talking to a model: text in, text out, in a terminal, a file or over HTTP."""
