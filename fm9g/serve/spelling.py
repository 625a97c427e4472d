"""What a token is by itself: its text, and the bytes that it adds to an answer, which may be a part of a character."""

from __future__ import annotations

import re

from tokenizers.pre_tokenizers import ByteLevel

from fm9g.data.tokens.tokenizer import Tokenizer

BLANK = "▁"
_BYTE = re.compile("<0x([0-9A-F]{2})>")


def _byte_of_letter() -> dict[str, int]:
    """The byte that each letter of byte-level vocabularies stands for: itself, or in their order those that cannot be
    printed (GPT-2's encoder)."""
    letters = sorted(ByteLevel.alphabet())
    own = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    others = sorted(set(range(256)) - set(own.values()))
    return own | dict(zip(letters[len(own) :], others, strict=True))


_BYTES = _byte_of_letter()


def spelled(tokenizer: Tokenizer, id: int) -> str:
    """A token's text; a special one, and one that is a part of a character, as the vocabulary has it, and one that it
    does not have by its number."""
    if id not in tokenizer.spellings:
        return f"<{id}>"
    text, written = tokenizer.decode([id]), tokenizer.spell(id)
    with_blanks = written.replace(BLANK, " ")
    if written.startswith(BLANK) and text == with_blanks.removeprefix(" "):
        return with_blanks  # a text would begin without the blank
    return text if text and "\ufffd" not in text else written


def bytes_of(tokenizer: Tokenizer, id: int) -> list[int] | None:
    """The bytes of a token; those of all tokens of an answer are its text's. None where it has no text."""
    if id not in tokenizer.spellings:
        return None
    written = tokenizer.spell(id)
    if id not in tokenizer.special:
        if byte := _BYTE.fullmatch(written):
            return [int(byte[1], 16)]
        if "\ufffd" in tokenizer.decode([id]) and all(letter in _BYTES for letter in written):
            return [_BYTES[letter] for letter in written]
    return list(spelled(tokenizer, id).encode())
