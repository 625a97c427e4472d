"""From a conversation to the parts of a document: the one way for training, generation and serving.

record -> Conversation -> pieces of its template -> Parts, of which answers are learned
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from fm9g.data.chat.conversation import Conversation, read_conversation
from fm9g.data.chat.jinja import JinjaTemplate
from fm9g.data.chat.pieces import NOBODY, Piece, make_parts
from fm9g.data.chat.template import Rows, read_template, template_path
from fm9g.data.record import NoText
from fm9g.data.stream.document import Part
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.files import load_json

TOKENIZER = "tokenizer"  # as a template's name: the one in the tokenizer's folder


class Learned(NamedTuple):
    """What is learned: answers with their end tokens, or everything, or the last answer alone."""

    train_on_prompt: bool = False
    mask_history: bool = False


ANSWERS_ALONE = Learned()


class Pieces(Protocol):
    """What a renderer needs of a template."""

    tokens: set[int]  # that it writes

    def pieces(self, conversation: Conversation) -> Iterator[Piece]:
        """The pieces of a conversation; NoText where the template has no place for something in it."""


class Renderer:
    """Renders conversations with a template for a tokenizer."""

    def __init__(self, name: str, tokenizer: Tokenizer, learned: Learned) -> None:
        """`name`: of a template in chat_templates/, its path, or TOKENIZER. UserError where there is none, or where the
        tokenizer cannot express it."""
        self.name, self._tokenizer, self._learned = name, tokenizer, learned
        if name == TOKENIZER:
            jinja = JinjaTemplate(tokenizer)
            self._template: Pieces = jinja
            content: Any = jinja.source
        else:
            path = template_path(name)
            self._template = Rows(read_template(path), tokenizer)
            content = load_json(path.read_text("utf-8"))
        self.digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        # tokens that it writes, but that text gives too: those of the vocabulary that are not special
        self._reserved = {id: s for id in self._template.tokens - set(tokenizer.special) if (s := tokenizer.spell(id))}

    @property
    def rules(self) -> dict[str, Any]:
        """What, besides a record and the tokenizer, decides about its document."""
        return {"template": self.digest, **self._learned._asdict()}

    def parts(self, record: dict[str, Any]) -> tuple[Part, ...]:
        """The parts of a record's conversation; NoText where it is none, or has nothing to learn."""
        conversation = read_conversation(record)
        turns = conversation.turns
        last = max(number for number, turn in enumerate(turns) if turn.answers)
        mine = {
            number
            for number, turn in enumerate(turns)
            if turn.answers and turn.learned and (number == last or not self._learned.mask_history)
        }
        if not mine:
            raise NoText("has no answer to learn")
        if self._learned.train_on_prompt:
            mine = {NOBODY, *range(len(turns))}
        pieces = self._template.pieces(conversation)
        if self._tokenizer.marks_first:
            pieces = _with_mark(pieces)
        return make_parts(pieces, mine.__contains__, self._tokenizer.strips)

    def encode_all(self, texts: Sequence[str], written: Written) -> list[list[int]]:
        """The token ids of texts of parts. None of them is a token that the template writes: where that is no special
        token but a piece of the vocabulary, its spelling in a text is taken apart."""
        found = self._tokenizer.encode_after_token(texts, written)
        if self._reserved:
            for number, ids in enumerate(found):
                if not self._reserved.keys().isdisjoint(ids):
                    found[number] = self._apart(texts[number], written)
        return found

    def _apart(self, text: str, written: Written) -> list[int]:
        for spelling in self._reserved.values():
            before, there, after = text.partition(spelling)
            if there:
                pieces = [before, spelling[:1], spelling[1:], after]
                found = self.encode_all([piece for piece in pieces if piece], written)
                return [id for ids in found for id in ids]
        return [id for ids in self._tokenizer.encode_all(list(text), written) for id in ids]


def _with_mark(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Pieces with a blank before a text that they begin with: all are encoded as texts that follow a token."""
    first = next(piece for piece in pieces if piece.content != "")
    if isinstance(first.content, str) and not first.content.startswith((" ", "▁")):
        yield Piece(" ")
    yield first
    yield from pieces


def beginnings(parts: Sequence[Part]) -> tuple[str, ...]:
    """The beginnings of parts' texts up to where learning starts or stops in them: from their tokens and those of the
    whole it is told which tokens are learned."""
    return tuple(
        part.content[:at]
        for part in parts
        if part.spans and isinstance(part.content, str)
        for span in part.spans
        for at in span
        if 0 < at < len(part.content)
    )
