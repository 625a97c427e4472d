"""Records of the usual finetuning formats to (input, output) pairs; the loss is on the output alone.

A format is a dataclass. Its attributes are the names of the fields to read and the tags that mark who speaks, its
`pairs` turns a record into pairs and counts, by reason, what it leaves out. Texts are taken as they are, not even
stripped; null is an empty text; any other value that is no string is a UserError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from fm9g.data.chat.conversation import Turn, read_history, read_turns
from fm9g.data.record import optional_text, text_of
from fm9g.errors import UserError

Pair = tuple[str, str]
Tags = dict[str, str]
"""{role: what is written before what it says}."""


class Format(Protocol):
    """What `prepare_records` needs of a format."""

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that every record has."""

    @property
    def optional(self) -> tuple[str, ...]:
        """The fields that a record may have."""

    def pairs(self, record: dict[str, Any], left_out: Counter[str]) -> Iterator[Pair]:
        """Yield (input, output) of a record, which has the required fields; UserError, which does not know the
        record's place, for one of another form."""


@dataclass(frozen=True)
class Text:
    """Plain text to train on as a whole: the input is empty."""

    text_field: str = "text"

    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that every record has."""
        return (self.text_field,)

    def pairs(self, record: dict[str, Any], left_out: Counter[str]) -> Iterator[Pair]:
        """Yield ("", text)."""
        text = text_of(record, self.text_field)
        if text.strip():
            yield "", text
        else:
            left_out["empty texts"] += 1


@dataclass(frozen=True)
class Alpaca:
    """An instruction, perhaps an input that goes on a line of its own below it, and the answer.

    Two fields that some sets have besides, `system` and `history` (earlier rounds, [[question, answer], …]), make a
    conversation of a record; then tags must tell its turns apart, in every record of the set.
    """

    question_field: str = "instruction"
    context_field: str = "input"
    answer_field: str = "output"
    system_tag: str = ""
    user_tag: str = ""
    assistant_tag: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that every record has."""
        return (self.question_field, self.answer_field)

    @property
    def optional(self) -> tuple[str, ...]:
        """The fields that a record may have."""
        return (self.context_field, "system", "history")

    def pairs(self, record: dict[str, Any], left_out: Counter[str]) -> Iterator[Pair]:
        """Yield one pair, and one before it for each round of the history."""
        system = optional_text(record, "system")
        turns = read_history(record.get("history"))
        if system.strip():
            turns.insert(0, Turn("system", system))
        if turns and not (self.user_tag and self.assistant_tag):
            raise UserError(
                "has a system text or a history, whose turns nothing would tell apart; "
                "give --user-tag and --assistant-tag, for example '<用户>' and '<AI>'"
            )
        question, context = text_of(record, self.question_field), optional_text(record, self.context_field)
        asked = "\n".join(text for text in (question, context) if text.strip())
        turns += [Turn("user", asked), Turn("assistant", text_of(record, self.answer_field))]
        tags: Tags = {"system": self.system_tag, "user": self.user_tag, "assistant": self.assistant_tag}
        yield from answer_pairs(turns, tags, left_out)


@dataclass(frozen=True)
class ShareGPT:
    """Conversations: a list of {"from", "value"} (or {"role", "content"}) turns, perhaps a `system` field.

    The default tags are those of CPM's chat models.
    """

    conversations_field: str = "conversations"
    system_tag: str = ""
    user_tag: str = "<用户>"
    assistant_tag: str = "<AI>"

    optional: ClassVar[tuple[str, ...]] = ("system",)

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that every record has."""
        return (self.conversations_field,)

    def pairs(self, record: dict[str, Any], left_out: Counter[str]) -> Iterator[Pair]:
        """Yield one pair for each answer: the whole conversation before it, and the answer."""
        tags: Tags = {"system": self.system_tag, "user": self.user_tag, "assistant": self.assistant_tag}
        turns = _turns(record[self.conversations_field], self.conversations_field, tags)
        system = optional_text(record, "system")
        if system.strip():
            if turns and turns[0].role == "system":
                raise UserError("has both a 'system' field and a system turn; keep one")
            turns.insert(0, Turn("system", system))
        yield from answer_pairs(turns, tags, left_out)


FORMATS: dict[str, type[Alpaca] | type[ShareGPT] | type[Text]] = {
    "alpaca": Alpaca,
    "sharegpt": ShareGPT,
    "text": Text,
}


def answer_pairs(turns: list[Turn], tags: Tags, left_out: Counter[str]) -> Iterator[Pair]:
    """Yield (everything before the answer, the answer) for each assistant turn: before is, turn by turn, tag + text,
    and the tag of the answer itself.

    An answer that is empty, or that answers nothing, stays in what comes before the next one, but is no target.
    """
    before, asked = "", None
    previous, unanswered = None, 0
    for turn in turns:
        role, text = turn.role, turn.text
        before += tags[role]
        if role == "user":
            asked = asked + text if asked is not None and previous == "user" else text
            unanswered += 1
        elif role == "assistant":
            unanswered = 0
            if not text.strip():
                left_out["empty answers"] += 1
            elif asked is None:
                left_out["answers before any question"] += 1
            elif not asked.strip():
                left_out["answers to an empty question"] += 1
            else:
                yield before, text
        before += text
        previous = role
    left_out["turns at the end without an answer"] += unanswered
    left_out["empty conversations"] += previous in (None, "system")


def _turns(found: Any, field: str, tags: Tags) -> list[Turn]:
    turns = [] if found is None else read_turns(found, field)
    for number, turn in enumerate(turns, 1):
        if turn.role not in tags:
            raise UserError(f'turn {number}: {turn.role}: a tool\'s, which "format": "chat" in the mixture reads')
    return turns
