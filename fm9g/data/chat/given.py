"""A conversation as a Jinja chat template is given it: OpenAI's messages and tools, with their texts or with marks."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from functools import cached_property
from typing import Any

from fm9g.data.chat.conversation import CALL, OBSERVATION, Conversation, Turn
from fm9g.data.chat.pieces import NOBODY
from fm9g.data.record import NoText

PAD = "   "  # white space around marks, by which it is told whether a template strips texts
_ID_CHARACTERS, _ID_LENGTH = string.ascii_letters + string.digits, 9  # Mistral's templates take no other ids
_JSON_MARK = re.compile(rf'"({PAD}json[0-9a-f]{{32}}{PAD})"')


class Given:
    """A conversation as a template is given it, and its texts in the order in which they are met; `marked`: with marks
    in their places, but for tools where `plain_tools` says so; `texts`: arguments of calls as texts of JSON."""

    def __init__(
        self, conversation: Conversation, marked: bool = False, texts: bool = False, plain_tools: bool = False
    ) -> None:
        self.conversation, self._marked, self.as_texts, self._plain_tools = conversation, marked, texts, plain_tools
        self.texts: list[str] = []
        self.turn_of: list[int] = []  # of each text
        self.ids: list[str] = []  # of calls and of their results, as they are met
        self._calls = 0
        self._unanswered: list[str] = []  # of the last calls, those without a result
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
            *self.ids,
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
        written = [self._json(tool) for tool in tools]
        return tools if self._plain_tools else written

    def _message(self, turn: Turn) -> dict[str, Any]:
        if turn.role == OBSERVATION:
            return {"role": "tool", "content": self._text(turn.text), "tool_call_id": self._answered(turn)}
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
        self._unanswered = self._ids(turn, calls)
        called = [
            {"id": id, "type": "function", "function": function}
            for id, function in zip(self._unanswered, functions, strict=True)
        ]
        return {"role": "assistant", "content": said, "tool_calls": called}

    def _ids(self, turn: Turn, calls: list[dict[str, Any]]) -> list[str]:
        """The ids of a turn's calls: those that the record has, or else by how many calls were before."""
        own = turn.ids or [call.get("id") for call in calls]
        ids = [id if id and isinstance(id, str) else _made_id(self._calls + n) for n, id in enumerate(own)]
        self._calls += len(ids)
        self.ids += ids
        return ids

    def _answered(self, turn: Turn) -> str:
        """The id of the call whose result a turn is: the record's, or else that of the first call that has none yet."""
        id = (*turn.ids, *self._unanswered, "")[0]
        self.ids.append(id)
        self._unanswered = [other for other in self._unanswered if other != id] or [id]
        return id


def _made_id(number: int) -> str:
    """An id for a call, always the same of so many calls before it."""
    value = int.from_bytes(hashlib.sha256(f"call {number}".encode()).digest(), "big")
    return "".join(
        _ID_CHARACTERS[value // len(_ID_CHARACTERS) ** place % len(_ID_CHARACTERS)] for place in range(_ID_LENGTH)
    )


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
