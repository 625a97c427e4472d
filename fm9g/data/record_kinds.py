"""Records of other forms than {"input", "output"}: told by the names of their fields, and what reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fm9g.commandline import command


@dataclass(frozen=True)
class RecordKind:
    """Records that have all of `fields`. `format` is the one of tools/prepare_data.py that reads them, or "" where
    nothing does yet; `options` are those of its settings that tell the names of the fields."""

    name: str
    fields: frozenset[str]
    format: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def advice(self) -> str:
        """What to do with them, in a few words."""
        if not self.format:
            return f"they are {self.name}, which no objective of this version learns from"
        flags = "".join(f" --{name.replace('_', '-')} {value}" for name, value in self.options)
        output = "DIR" if self.format == "qa" else "Y.jsonl"
        prepare = f"{command('prepare')} --format {self.format} --path X --output {output}{flags}"
        if self.format == "text":
            return f"they are {self.name}: {prepare} reads them"
        return f'they are {self.name}: "format": "chat" in the mixture learns from them; {prepare} makes text of them'


def _kind(name: str, fields: str, format: str, **options: str) -> RecordKind:
    return RecordKind(name, frozenset(fields.split()), format, tuple(options.items()))


def _answered(name: str, question: str, answer: str) -> RecordKind:
    return _kind(name, f"{question} {answer}", "alpaca", question_field=question, answer_field=answer)


# The first that fits counts, so what has more fields comes first.
KINDS = (
    _kind("preferences", "chosen rejected", ""),
    _kind("preferences", "response_chosen response_rejected", ""),
    _kind("conversations", "conversations", "sharegpt"),
    _kind("conversations", "messages", "sharegpt", conversations_field="messages"),
    _kind("instructions with answers", "instruction output", "alpaca"),
    _kind("questions with answers", "Question Response", "qa"),
    _answered("questions with answers", "question", "answer"),
    _answered("prompts with completions", "prompt", "completion"),
    _answered("prompts with responses", "prompt", "response"),
    _answered("queries with responses", "query", "response"),
    _kind("texts", "text", "text"),
    _kind("texts", "content", "text", text_field="content"),
)


def recognise(fields: Collection[str]) -> RecordKind | None:
    """The kind of records with these fields; None where they are none of the usual ones."""
    return next((kind for kind in KINDS if kind.fields <= set(fields)), None)


def unread_texts(advice: str) -> str:
    """What is said of texts outside of `input` and `output`, with the advice of their kind."""
    return f"texts in other fields than input and output are not read; {advice}"


def unread_kind(record: Mapping[str, Any]) -> RecordKind | None:
    """The kind of a record that holds text outside of `input` and `output`, by which it is known; None where it does
    not. Other fields (an id, a url, a title) are taken for what they are mostly: not meant to be learned."""
    kind = recognise(record)
    held = kind is not None and any(record[field] for field in kind.fields - {"input", "output"})
    return kind if held else None
