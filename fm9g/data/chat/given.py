"""A conversation as a Jinja chat template is given it: OpenAI's messages and tools, with their texts or with marks."""

from __future__ import annotations

import json
import re
import secrets
from functools import cached_property
from typing import Any

from fm9g.data.chat.conversation import CALL, OBSERVATION, Conversation, Turn
from fm9g.data.chat.pieces import NOBODY
from fm9g.data.record import NoText

PAD = "   "  # white space around marks, by which it is told whether a template strips texts
_JSON_MARK = re.compile(rf'"({PAD}json[0-9a-f]{{32}}{PAD})"')


class Given:
    """A conversation as a template is given it, and its texts in the order in which they are met; `marked`: with marks
    in their places; `texts`: arguments of calls as texts of JSON."""

    def __init__(self, conversation: Conversation, marked: bool = False, texts: bool = False) -> None:
        self.conversation, self._marked, self.as_texts = conversation, marked, texts
        self.texts: list[str] = []
        self.turn_of: list[int] = []  # of each text
        self._turn = NOBODY
        self.tools = self._tools(conversation.tools)
        self.messages: list[dict[str, Any]] = []
        self.system = {len(self.texts)} if conversation.system else set[int]()  # which of the texts
        if conversation.system:
            self.messages.append({"role": "system", "content": self._text(conversation.system)})
        self.ahead = len(self.messages)  # of the turns
        for self._turn, turn in enumerate(conversation.turns):
            self.messages.append(self._message(turn))

    @cached_property
    def shape(self) -> tuple[Any, ...]:
        """What a skeleton depends on."""
        tools = -1 if self.tools is None else len(self.tools)
        return (
            tools,
            self.as_texts,
            *((m["role"], bool(m["content"]), len(m.get("tool_calls", ()))) for m in self.messages),
        )

    def _text(self, text: str, kind: str = "text") -> str:
        if self._marked:
            text = f"{PAD}{kind}{secrets.token_hex(16)}{PAD}"
        self.texts.append(text)
        self.turn_of.append(self._turn)
        return text

    def _json(self, value: Any) -> Any:
        """A value that a template writes as JSON."""
        text = self._text(as_json(value), "json")
        return text if self._marked else value

    def _arguments(self, value: Any) -> Any:
        return self._text(as_json(value)) if self.as_texts else self._json(value)

    def _tools(self, text: str) -> list[Any] | None:
        if not text:
            return None
        tools = _parsed(text)
        if not isinstance(tools, list):
            raise NoText("'tools' are no JSON list, which the tokenizer's chat template needs")
        return [self._json(tool) for tool in tools]

    def _message(self, turn: Turn) -> dict[str, Any]:
        if turn.role == OBSERVATION:
            return {"role": "tool", "content": self._text(turn.text)}
        if turn.role != CALL:
            return {"role": turn.role, "content": self._text(turn.text)}
        calls = _parsed(turn.text)
        calls = calls if isinstance(calls, list) else [calls]
        if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
            raise NoText('a call is no JSON of {"name", "arguments"}, which the tokenizer\'s chat template needs')
        said = self._text(turn.said) if turn.said else ""
        functions = [
            {"name": self._text(call["name"]), "arguments": self._arguments(call.get("arguments", {}))}
            for call in calls
        ]
        called = [{"type": "function", "function": function} for function in functions]
        return {"role": "assistant", "content": said, "tool_calls": called}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def as_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The filter tojson as transformers has it, not escaped for HTML. A mark that stands for JSON stays as it is."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return _JSON_MARK.sub(r"\1", text)
