"""Tokens around a text, as tokenizer.json says them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def added_entry(id: int, text: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    """A token of `added_tokens`."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": text, **plain, **flags, "special": special}


def tokens_around(before: Sequence[tuple[int, str]], after: Sequence[tuple[int, str]] = ()) -> dict[str, Any] | None:
    """The post-processor that puts tokens, (id, spelling), before and after each text; None for no tokens."""
    if not before and not after:
        return None

    def around(name: str) -> list[dict[str, Any]]:
        first, last = ([{"SpecialToken": {"id": text, "type_id": 0}} for _, text in some] for some in (before, after))
        return [*first, {"Sequence": {"id": name, "type_id": 0}}, *last]

    tokens = {text: {"id": text, "ids": [id], "tokens": [text]} for id, text in (*before, *after)}
    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": [*around("A"), *around("B")],
        "special_tokens": tokens,
    }
