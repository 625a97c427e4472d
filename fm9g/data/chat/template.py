"""Chat templates of our own: chat_templates/*.json, rows of literal text, tokens and slots.

    {"begin": [{"token": "bos"}],
     "user": ["USER: ", "{content}", " "], "prompt": ["ASSISTANT:"], "assistant": [" ", "{content}", {"token": "eos"}]}

A conversation is `begin`, then its system text in `system` (with `tools` after the text), then its turns: `user`, what
opens an answer in `prompt`, and the answer in `assistant`, or `call` where it calls a tool, whose result is an
`observation`. `first_user` is the first question where there is no system text, `first_user_with_system` where there is
one that stands in the question. A slot takes a text ("{content}", "{system}", "{tools}", "{round}", the number of the
question); "{content|trim}" takes it without white space at its ends. A token is spelled as the tokenizer has it; "bos"
and "eos" are those of any tokenizer.

Of an answer's row, what goes up to the token after the text and those that follow it at once is learned, of a call up
to the last one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from fm9g.data.chat.conversation import CALL, OBSERVATION, USER, Conversation, Turn
from fm9g.data.chat.pieces import NOBODY, Piece
from fm9g.data.record import NoText
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.environment import REPOSITORY
from fm9g.errors import UserError, closest, shown
from fm9g.files import read_json, user_path

FOLDER = REPOSITORY / "chat_templates"
_NEEDED, _QUESTIONS = ("user", "assistant"), ("user", "first_user", "first_user_with_system")
_ROWS = ("begin", "system", "tools", *_QUESTIONS, "prompt", "assistant", "call", "observation")
_SLOT = re.compile(r"\{(content|system|tools|round)(\|trim)?\}")
_SLOTS_OF = {"first_user_with_system": {"content", "system"}, "tools": {"tools"}}


class Token(NamedTuple):
    """A token, by its spelling, or "bos" or "eos"."""

    name: str


class Slot(NamedTuple):
    """Where a text goes."""

    name: str
    trim: bool


Item = str | Token | Slot
_CONTENT = -2  # as a piece's turn, within this file: it is a row's content


@dataclass(frozen=True)
class Template:
    """What a file of chat_templates/ says. `stop`: tokens that end an answer besides those that are learned."""

    path: Path
    rows: Mapping[str, tuple[Item, ...]]
    default_system: str
    stop: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    def tokens(self) -> set[str]:
        """The names of all its tokens."""
        return {item.name for row in self.rows.values() for item in row if isinstance(item, Token)} | set(self.stop)


def template_file(name: str) -> Path:
    """Where the file of a template is to be, by its path or its name in chat_templates/."""
    return user_path(name) if name.endswith(".json") else FOLDER / f"{name}.json"


def digest(content: Any) -> str:
    """sha256, hex, of what a template says, however its file is laid out."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def template_path(name: str) -> Path:
    """The file of a template; a UserError where there is none."""
    path = template_file(name)
    if path.is_file():
        return path
    names = sorted(file.stem for file in FOLDER.glob("*.json"))
    there = f"; there are {', '.join(names)}, and tokenizer, for the tokenizer folder's own" if names else ""
    raise UserError(f"template {shown(name)}: {path}: no such file{closest(name, names)}{there}")


def read_template(path: Path) -> Template:
    """Read and check a template's file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object")
    known = (*_ROWS, "default_system", "stop")
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{closest(key, known)}")
    for key in _NEEDED:
        if key not in content:
            raise UserError(f"{path}: {key} is missing")
    default = content.get("default_system", "")
    if not isinstance(default, str):
        raise UserError(f"{path}: default_system must be a text, not {shown(default)}")
    stop = content.get("stop", [])
    if not isinstance(stop, list) or not all(isinstance(name, str) for name in stop):
        raise UserError(f"{path}: stop must be a list of tokens, not {shown(stop)}")
    rows = {key: _row(content[key], key, f"{path}: {key}") for key in _ROWS if key in content}
    if "tools" in rows and not isinstance(rows["tools"][0], str):
        raise UserError(f"{path}: tools: must begin with a text")
    if default and not rows.keys() & {"system", "first_user_with_system"}:
        raise UserError(f"{path}: default_system has no row: neither system nor first_user_with_system is there")
    _check_rows(path, rows)
    return Template(path, rows, default, tuple(stop))


def _check_rows(path: Path, rows: Mapping[str, Any]) -> None:
    """Rows that would have nothing to do beside others, or two places for one thing."""
    for row, other in (("system", "first_user_with_system"), ("first_user", "first_user_with_system")):
        if {row, other} <= rows.keys():
            raise UserError(f"{path}: {row} and {other} are both there: a system text has one place")
    for row, needed in (("tools", "system"), ("tools", "call"), ("observation", "call")):
        if row in rows and needed not in rows:
            raise UserError(f"{path}: {row} is there without {needed}")


def _row(items: Any, key: str, where: str) -> tuple[Item, ...]:
    if not isinstance(items, list):
        raise UserError(f"{where}: expected a list, found {shown(items)}")
    row = tuple(_item(item, where) for item in items)
    slots = {item.name for item in row if isinstance(item, Slot)}
    wanted = set() if key in ("begin", "prompt") else _SLOTS_OF.get(key, {"content"})
    if (slots - {"round"} if key in _QUESTIONS else slots) != wanted:
        listed = " and ".join(f"{{{name}}}" for name in sorted(wanted)) or "no slot"
        raise UserError(f"{where}: must have {listed}")
    return row


def _item(item: Any, where: str) -> Item:
    if isinstance(item, str):
        slot = _SLOT.fullmatch(item)
        if not slot and _SLOT.search(item):
            raise UserError(f"{where}: a slot stands alone in the list, unlike in {shown(item)}")
        return Slot(slot[1], bool(slot[2])) if slot else item
    if isinstance(item, dict) and item.keys() == {"token"} and isinstance(item["token"], str):
        return Token(item["token"])
    raise UserError(f'{where}: must be a text, a slot or {{"token": "…"}}, not {shown(item)}')


class Rows:
    """A template with the tokens of a tokenizer: what renders conversations to pieces."""

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        """UserError where the tokenizer cannot express the template."""
        self.template = template
        self._ids = {name: _token_id(template, name, tokenizer) for name in template.tokens()}
        self.tokens = {id for id in self._ids.values() if id is not None}
        for key, row in template.rows.items():
            for item in row:
                if isinstance(item, str):
                    _check_literal(template, key, item, tokenizer)

    @property
    def ends(self) -> set[int]:
        """The tokens that end an answer."""
        found = {id for name in self.template.stop if (id := self._ids[name]) is not None}
        for turn in (Turn("assistant", ""), Turn("call", "")):
            if turn.role in self.template.rows:
                found |= {
                    piece.content for piece in self._answer(0, turn) if piece.ends and isinstance(piece.content, int)
                }
        return found

    def pieces(self, conversation: Conversation) -> Iterator[Piece]:
        """The pieces of a conversation; NoText where the template has no place for something in it."""
        yield from self._begin(conversation)
        questions = 0
        for number, turn in enumerate(conversation.turns):
            if not turn.answers:
                questions += turn.role == USER
                if number and turn.role == conversation.turns[number - 1].role == OBSERVATION:
                    raise self._no_place("two results in a row")
                yield from self._question(conversation, number, turn, questions)
                continue
            yield from self._fill("prompt", {})
            yield from self._answer(number, turn)

    def prompt(self, conversation: Conversation) -> Iterator[Piece]:
        """The pieces of a conversation that waits for an answer, up to where that begins."""
        yield from self.pieces(conversation)
        yield from self._fill("prompt", {})

    def _begin(self, conversation: Conversation) -> Iterator[Piece]:
        yield from self._fill("begin", {})
        system, rows = self._system(conversation), self.template.rows
        if not conversation.tools and not system:
            return
        if "system" in rows:
            for piece in self._fill("system", {"content": system}, _CONTENT):
                yield Piece(piece.content)
                if piece.turn == _CONTENT and conversation.tools:
                    yield from self._tools(conversation, system)
        elif "first_user_with_system" not in rows or conversation.tools:
            raise self._no_place("tools" if conversation.tools else "a system text")

    def _tools(self, conversation: Conversation, system: str) -> Iterator[Piece]:
        """The row of tools; what sets it apart from a system text is left out where there is none."""
        for number, piece in enumerate(self._fill("tools", {"tools": _tool_lines(conversation.tools)})):
            apart = number == 0 and not system and isinstance(piece.content, str)
            yield Piece(str(piece.content).lstrip()) if apart else piece

    def _system(self, conversation: Conversation) -> str:
        return conversation.system or self.template.default_system

    def _question(self, conversation: Conversation, number: int, turn: Turn, questions: int) -> Iterator[Piece]:
        row, rows = str(turn.role), self.template.rows
        if number == 0 and self._system(conversation):
            row = row if "system" in rows else "first_user_with_system"
        elif number == 0 and not conversation.tools and "first_user" in rows:
            row = "first_user"
        texts = {"content": turn.text, "system": self._system(conversation), "round": str(questions)}
        yield from self._fill(row, texts)

    def _answer(self, number: int, turn: Turn) -> Iterator[Piece]:
        if turn.said:
            raise self._no_place("something that is said beside a call")
        if turn.role == CALL and turn.text.lstrip().startswith("["):
            raise self._no_place("several calls at once")
        filled = list(self._fill(turn.role, {"content": turn.text}, _CONTENT))
        content = next(i for i, piece in enumerate(filled) if piece.turn == _CONTENT)
        tokens = [i for i, piece in enumerate(filled) if i > content and not isinstance(piece.content, str)]
        end = tokens[-1 if turn.role == CALL else 0] if tokens else len(filled) - 1
        while end + 1 in tokens:  # tokens that follow it at once
            end += 1
        for i, piece in enumerate(filled):
            yield Piece(piece.content, number if i <= end else NOBODY, i == end)

    def _fill(self, key: str, texts: Mapping[str, str], content: int = NOBODY) -> Iterator[Piece]:
        """A row with its texts; `content`: as whose the piece of {content} is marked."""
        if key not in self.template.rows and key not in ("begin", "prompt"):
            raise self._no_place({CALL: "calls of tools", OBSERVATION: "results of tools"}.get(key, key))
        for item in self.template.rows.get(key, ()):
            if isinstance(item, Slot):
                text = texts[item.name].strip() if item.trim else texts[item.name]
                yield Piece(text, content if item.name == "content" else NOBODY)
            elif isinstance(item, str):
                yield Piece(item)
            elif (id := self._ids[item.name]) is not None:
                yield Piece(id)

    def _no_place(self, what: str) -> NoText:
        return NoText(f"has {what}, for which the template {self.template.name} has no place")


def _tool_lines(tools: str) -> str:
    """A JSON list of tools, each on a line of its own; any other text as it is."""
    try:
        listed = json.loads(tools)
    except (ValueError, RecursionError):
        return tools
    if not isinstance(listed, list):
        return tools
    return "\n".join(json.dumps(tool, ensure_ascii=False) for tool in listed)


def _token_id(template: Template, name: str, tokenizer: Tokenizer) -> int | None:
    if name == "bos":
        return tokenizer.bos_id
    if name == "eos":
        return tokenizer.eos_id
    id = tokenizer.id_of(name)
    if id is None:
        raise UserError(f"template {template.name} ({template.path}): {tokenizer.path} has no token {name!r}")
    return id


def _check_literal(template: Template, key: str, text: str, tokenizer: Tokenizer) -> None:
    spelled = [tokenizer.special[id] for id in tokenizer.encode(text, Written.ALL) if id in tokenizer.special]
    if spelled:
        raise UserError(
            f"template {template.name} ({template.path}): {key} has the text {shown(text)}, in which the special token "
            f'{spelled[0]} of {tokenizer.path} is spelled: write it as {{"token": "{spelled[0]}"}}'
        )
