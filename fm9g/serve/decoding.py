"""The text of tokens as they come: whole characters, and nothing that may yet turn out to be a stop."""

from __future__ import annotations

from collections.abc import Sequence

from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.serve.spelling import bytes_of

_KEPT, _MOST = 8, 32  # tokens that the next is decoded with; how many there may be before the older ones are let go
_BYTES = 4  # of a character at most, each a token if need be
_LEADS = ((0xF0, 4), (0xE0, 3), (0xC0, 2))  # the first byte of a character of so many bytes, and above
_PARTIAL = "\ufffd"  # what a decoder makes of the bytes of a character that is not whole


class Decoding:
    """Of one row, after the tokens of its prompt."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str] = (), trim: bool = False):
        """`stops`: texts before which the row's text ends; `trim`: without white space at its ends, as answers are."""
        self._tokenizer, self._stops, self._trim = tokenizer, stops, trim
        self._ids = list(prompt[-_KEPT:])
        self._decoded = tokenizer.decode(self._ids)
        self._held = ""  # decoded, but not given yet
        self._begun = False
        self.stopped = False  # by one of `stops`

    def add(self, token: int) -> str:
        """The text that is known since this token; nothing after a stop."""
        if self.stopped or token >= self._tokenizer.vocab_size:  # a row of the model that no token has
            return ""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(_PARTIAL) and self._is_cut(len(self._ids)):
            return ""
        self._held += text[len(self._decoded) :]
        self._decoded = text
        if len(self._ids) >= _MOST:
            kept = next(n for n in range(_KEPT, _KEPT + _BYTES) if not self._is_cut(len(self._ids) - n))
            self._ids = self._ids[-kept:]
            self._decoded = self._tokenizer.decode(self._ids)
        return self._given(self._free())

    def _is_cut(self, count: int) -> bool:
        """Whether the first so many tokens end within a character."""
        found = b"".join(bytes(bytes_of(self._tokenizer, id) or ()) for id in self._ids[max(0, count - _BYTES) : count])
        for left, byte in enumerate(reversed(found[-_BYTES + 1 :]), 1):
            if byte & 0xC0 != 0x80:  # not one that goes on with a character
                return next((left < size for lead, size in _LEADS if byte >= lead), False)
        return False

    def end(self) -> str:
        """What is left when the row has ended: a character that is not whole is told as such."""
        if self.stopped:
            return ""
        self._held += self._tokenizer.decode(self._ids)[len(self._decoded) :]
        return self._given(len(self._held.rstrip()) if self._trim else len(self._held))

    def _free(self) -> int:
        """How many characters of what is held are text for certain."""
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return len(self._held.rstrip()) if self._trim else len(self._held)
        free = len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)
        return len(self._held[:free].rstrip()) if self._trim else free

    def _given(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        if self._trim and not self._begun:
            text = text.lstrip()
        self._begun = self._begun or bool(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` `stop` may begin with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
