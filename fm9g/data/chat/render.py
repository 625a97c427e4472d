"""From a conversation to the parts of a document.

record -> Conversation -> pieces of its template -> Parts, of which answers are learned
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from fm9g.data.chat.conversation import MOST_WEIGHT, Conversation, read_conversation
from fm9g.data.chat.jinja import JinjaTemplate
from fm9g.data.chat.pieces import NOBODY, Piece, make_parts
from fm9g.data.chat.template import Rows, digest, read_template, template_path
from fm9g.data.example import Part
from fm9g.data.record import NoText
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.files import read_json

_CUT = "\ue000"  # for private use: no token has it and more
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

    def prompt(self, conversation: Conversation) -> Iterator[Piece]:
        """Those of one that waits for an answer, up to where that begins."""

    @property
    def ends(self) -> set[int]:
        """The tokens that end an answer."""


class Renderer:
    """Renders conversations with a template for a tokenizer."""

    def __init__(self, name: str, tokenizer: Tokenizer, learned: Learned) -> None:
        """`name`: of a template in chat_templates/, its path, or TOKENIZER. UserError where there is none, or where the
        tokenizer cannot express it."""
        self.name, self._tokenizer, self._learned = name, tokenizer, learned
        if name == TOKENIZER:
            jinja = JinjaTemplate(tokenizer)
            self._template: Pieces = jinja
            self.digest = digest(jinja.sources)
        else:
            path = template_path(name)
            self._template = Rows(read_template(path), tokenizer)
            self.digest = digest(read_json(path))
        # tokens that it writes, but that text gives too: those of the vocabulary that are not special
        self._reserved = {id: tokenizer.spell(id) for id in self._template.tokens - set(tokenizer.special)}
        spelled = sorted((s for s in self._reserved.values() if len(s) > 1), key=len, reverse=True)
        self._spelled = re.compile(f"({'|'.join(map(re.escape, spelled))})")

    @property
    def rules(self) -> dict[str, Any]:
        """What, besides a record and the tokenizer, decides about its document."""
        return {"template": self.digest, **self._learned._asdict()}

    def parts(self, record: dict[str, Any]) -> tuple[Part, ...]:
        """The parts of a record's conversation; NoText where it is none, or has nothing to learn."""
        conversation = read_conversation(record)
        if not conversation.weight:
            raise NoText("has the weight 0, so that nothing of it is learned")
        turns = conversation.turns
        last = max(number for number, turn in enumerate(turns) if turn.answers)
        mine = {
            number: turn.weight * conversation.weight
            for number, turn in enumerate(turns)
            if turn.answers and turn.weight and (number == last or not self._learned.mask_history)
        }
        if not mine:
            raise NoText("has no answer to learn")
        if max(mine.values()) > MOST_WEIGHT:
            raise NoText(f"has a turn whose weight times the record's is above {MOST_WEIGHT:,}")
        if self._learned.train_on_prompt:
            mine = dict.fromkeys((NOBODY, *range(len(turns))), conversation.weight) | mine
        return self._parts(self._template.pieces(conversation), lambda turn: mine.get(turn, 0.0))

    def _parts(self, pieces: Iterator[Piece], weight: Callable[[int], float]) -> tuple[Part, ...]:
        if self._tokenizer.marks_first:
            pieces = _with_mark(pieces)
        return make_parts(pieces, weight, self._tokenizer.strips)

    def prompt(self, conversation: Conversation) -> list[int]:
        """The token ids of a conversation that waits for an answer, up to where that begins: what a document of
        training has before it."""
        parts = self._parts(self._template.prompt(conversation), lambda turn: 0.0)
        texts = iter(self.encode_all([part.content for part in parts if isinstance(part.content, str)], Written.NONE))
        return [id for part in parts for id in (next(texts) if isinstance(part.content, str) else [part.content])]

    @property
    def ends(self) -> set[int]:
        """The tokens that end an answer, the end of a document among them."""
        return self._template.ends | {self._tokenizer.eos_id}

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
        """The ids of a text in which each spelling of a reserved token is cut after its first character."""
        found: list[int] = []
        for number, part in enumerate(self._spelled.split(text)):
            for piece in (part[:1], part[1:]) if number % 2 else (part,):  # every other part is such a spelling
                if piece:
                    found += self._inside(piece, written) if found else self._one(piece, written)
        return found

    def _one(self, text: str, written: Written) -> list[int]:
        return self._tokenizer.encode_after_token([text], written)[0]

    def _inside(self, text: str, written: Written) -> list[int]:
        """The ids of a text that goes on where another was cut: without what marks the beginning of a text."""
        before, whole = self._one(_CUT, written), self._one(_CUT + text, written)
        return whole[len(before) :] if whole[: len(before)] == before else self._one(text, written)


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
