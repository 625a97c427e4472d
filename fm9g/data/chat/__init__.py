"""Conversations: read, rendered by a template, and made into parts of which answers are learned."""
