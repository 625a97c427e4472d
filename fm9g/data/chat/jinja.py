"""`template: tokenizer`: the Jinja chat template of a tokenizer's folder, with its answers located exactly.

A template writes text and markup into one string, in which nothing tells them apart any more. So it is rendered with
marks in place of the texts, once for each order of turns; what stands between the marks is markup, in which special
tokens are tokens, and the texts, put back in the place of the marks, are text whatever they spell. Where the string so
made is not the one that the template makes of the texts themselves (some look into them, for "</think>" say), that is
cut at its special tokens instead, unless a text spells one.

An answer begins after what `add_generation_prompt` writes and ends with the token after its text and those that follow
it at once (of a call of tools, with the last one before the next turn). Templates run in Jinja's sandbox. What a
document is does not depend on the day: there is no strftime_now, or for templates that cannot do without that of a
fixed day.
"""

from __future__ import annotations

import contextlib
import os.path
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jinja2

from fm9g.data.chat.conversation import CALL, Conversation, Turn
from fm9g.data.chat.given import PAD, Given, as_json
from fm9g.data.chat.jinja_source import DEFAULT, TOOL_USE, compiled, read_sources, special_variables
from fm9g.data.chat.pieces import NOBODY, Piece
from fm9g.data.record import NoText
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.errors import UserError

_TAIL = 16  # characters at the end of a text, by which it is found in what a template makes of it
_KEPT = 1024  # skeletons, each of an order of turns


class _Text(NamedTuple):
    """A place of a skeleton: text number `number`, without the white space that the template takes away."""

    number: int
    left: bool
    right: bool
    turn: int
    ends: bool


Skeleton = list[Piece | _Text]


class JinjaTemplate:
    """The chat template of the folder that a tokenizer was loaded from."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """UserError where the folder has none, or one that is no template."""
        self._tokenizer = tokenizer
        folder = tokenizer.path.parent
        self.sources, where = read_sources(folder)
        self._variables = special_variables(folder)
        try:
            self._jinja = {name: compiled(source) for name, source in self.sources.items()}
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            raise UserError(f"{where}: the chat template is no Jinja template: {error}") from None
        self._spelled = {spelling: id for id, spelling in tokenizer.special.items()}
        names = sorted(map(re.escape, self._spelled), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(names)})" if names else r"(?!)")
        self.tokens: set[int] = set()  # special ones alone, which no text gives anyway
        self._skeletons: dict[tuple[Any, ...], Skeleton | None] = {}

    def pieces(self, conversation: Conversation) -> Iterator[Piece]:
        """The pieces of a conversation; NoText where the template refuses it, or hides what is whose."""
        return self._pieces(conversation, False)

    def prompt(self, conversation: Conversation) -> Iterator[Piece]:
        """The pieces of a conversation that waits for an answer, up to where that begins."""
        return self._pieces(conversation, True)

    @property
    def ends(self) -> set[int]:
        """The tokens that end an answer."""
        shortest = Conversation((Turn("user", "?"), Turn("assistant", "!")))
        return {piece.content for piece in self.pieces(shortest) if piece.ends and isinstance(piece.content, int)}

    def _pieces(self, conversation: Conversation, opened: bool) -> Iterator[Piece]:
        """`opened`: with what opens the next answer, and without a look for those that are there."""
        given = Given(conversation)
        try:
            whole = self._render(given.messages, given.tools, opened)
        except NoText:
            if all(turn.role != CALL for turn in conversation.turns):
                raise
            given = Given(conversation, texts=True)  # some templates take arguments for texts of JSON
            whole = self._render(given.messages, given.tools, opened)
        if any(self._special.search(id) for id in given.ids):
            raise NoText("the id of a call spells a special token")
        for skeleton in self._skeletons_of(given, opened):
            pieces = [_filled(item, given.texts) for item in skeleton]
            if "".join(self._spelling(piece) for piece in pieces) == whole:
                return iter(pieces)
        return self._cut(given, whole, opened)

    def _spelling(self, piece: Piece) -> str:
        content = piece.content
        return content if isinstance(content, str) else self._tokenizer.special[content]

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, opened: bool = False) -> str:
        variables = self._variables | {"messages": messages, "tools": tools, "add_generation_prompt": opened}
        try:
            return self._jinja[TOOL_USE if tools and TOOL_USE in self._jinja else DEFAULT].render(variables)
        except jinja2.TemplateError as error:
            raise NoText(f"the tokenizer's chat template refuses it: {error}") from None
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            # what a template does to values
            raise NoText(f"the tokenizer's chat template fails on it: {type(error).__name__}: {error}") from None

    def _skeletons_of(self, given: Given, opened: bool) -> Iterator[Skeleton]:
        """What the template makes of conversations of this shape; and, since some look into tools, of those with these
        tools."""
        kinds: list[tuple[tuple[Any, ...], bool]] = [((opened, *given.shape), False)]
        if (tools := given.conversation.tools) and not self._special.search(as_json(given.tools)):
            kinds.append(((opened, *given.shape, tools), True))
        for shape, plain_tools in kinds:
            if (skeleton := self._skeleton(given, opened, shape, plain_tools)) is not None:
                yield skeleton

    def _skeleton(self, given: Given, opened: bool, shape: tuple[Any, ...], plain_tools: bool) -> Skeleton | None:
        """Made once for each shape; None where its parts cannot be told."""
        with contextlib.suppress(KeyError):
            return self._skeletons[shape]
        try:
            made = self._make_skeleton(given, opened, plain_tools)
        except NoText:
            made = None
        if len(self._skeletons) >= _KEPT:
            self._skeletons.clear()
        self._skeletons[shape] = made
        return made

    def _make_skeleton(self, given: Given, opened: bool, plain_tools: bool) -> Skeleton | None:
        marked = Given(given.conversation, True, given.as_texts, plain_tools)
        whole = self._render(marked.messages, marked.tools, opened)
        # a template may have no use for tools, but for all else
        found = _find(
            whole, marked.texts, {n for n, turn in enumerate(marked.turn_of) if turn == NOBODY} - marked.system
        )
        if found is None:
            return None
        learned = {} if opened else dict(self._answers(marked, whole, found))
        skeleton: Skeleton = []
        at = 0
        for place in found:
            skeleton += self._literal(whole[at : place.start], at, learned)
            turn = next((turn for turn, (start, stop) in learned.items() if start <= place.start < stop), NOBODY)
            ends = turn != NOBODY and place.stop == learned[turn][1]
            skeleton.append(_Text(place.number, place.left, place.right, turn, ends))
            at = place.stop
        skeleton += self._literal(whole[at:], at, learned)
        return skeleton

    def _answers(self, given: Given, whole: str, found: list[_Place]) -> Iterator[tuple[int, tuple[int, int]]]:
        """(turn, where in the string its answer starts and stops) of each answer of a skeleton's string."""
        ahead = given.ahead
        for number, turn in enumerate(given.conversation.turns):
            if not turn.answers:
                continue
            places = [place for place in found if given.turn_of[place.number] == number]
            after = min((place.start for place in found if place.start >= places[-1].stop), default=len(whole))
            previous = max((p for p in found if p.stop <= places[0].start), key=lambda p: p.stop, default=None)
            mark = "" if previous is None else given.texts[previous.number].strip()
            start = self._start(given.messages[: ahead + number], given.tools, whole, mark, places[0].start)
            after, known = self._bound(given, number, whole, after)
            yield number, (start, self._end(turn, whole, places[-1].stop, after, known) or places[-1].stop)

    def _bound(self, given: Given, number: int, whole: str, after: int) -> tuple[int, bool]:
        """Where the turn after an answer begins, and whether that is known; if not, `after`, which is in that turn."""
        closed = self._render(given.messages[: given.ahead + number + 1], given.tools)
        return (len(closed), True) if whole.startswith(closed) else (after, False)

    def _openings(self, messages: Sequence[Any], tools: Any) -> tuple[str, list[str]]:
        """The string of `messages`, and what may open the answer after them: what `add_generation_prompt` writes, and
        what of it goes up to one of its tokens, since some write there what a model has thought already."""
        closed, opened = self._render(messages, tools), self._render(messages, tools, True)
        opening = opened[len(closed) :] if opened.startswith(closed) else ""
        ends = [token.end() for token in self._special.finditer(opening)]
        return closed, [opening[:end] for end in sorted({len(opening), *ends}, reverse=True) if end]

    def _start(self, messages: Sequence[Any], tools: Any, whole: str, mark: str, text: int) -> int:
        """Where the answer after `messages` starts, whose own text does at `text`: after what opens it, or if nothing
        does, after what ends the turn before, whose text is `mark`."""
        closed, openings = self._openings(messages, tools)
        before = whole.index(mark) + len(mark)
        for opening in openings:
            if (at := whole.rfind(opening, before, text)) >= 0:
                return at + len(opening)
        ending = closed[closed.rfind(mark) + len(mark) :]
        if not whole.startswith(ending, before) or before + len(ending) > text:
            return text
        start = before + len(ending)
        return start + len(os.path.commonprefix([openings[0] if openings else "", whole[start:text]]))

    def _end(self, turn: Turn, whole: str, text: int, stop: int, known: bool) -> int | None:
        """Where the tokens stop that end an answer whose text stops at `text`; None where there are none before `stop`.

        `known`: `stop` is where the next turn begins. They are the first token and those that it is followed by without
        anything between; of a call, all up to the last.
        """
        tokens = list(self._special.finditer(whole, text, stop))
        if not tokens or not known:
            return tokens[0].end() if tokens else None
        if turn.role == CALL:
            return tokens[-1].end()
        end = tokens[0].end()
        for token in tokens[1:]:
            if token.start() != end:
                break
            end = token.end()
        return end

    def _literal(self, text: str, at: int, learned: dict[int, tuple[int, int]]) -> Iterator[Piece]:
        """The pieces of markup that begins at `at` of the string."""
        for part in self._special.split(text):
            if part:
                yield from self._parted(part, at, learned)
            at += len(part)

    def _parted(self, part: str, at: int, learned: dict[int, tuple[int, int]]) -> Iterator[Piece]:
        """A token, or a text cut where an answer starts."""
        content: str | int = self._spelled.get(part, part)
        for turn, (start, stop) in learned.items():
            if at < start < at + len(part) and isinstance(content, str):
                yield Piece(part[: start - at])
                yield from self._parted(part[start - at :], start, learned)
                return
            if start <= at < stop:
                yield Piece(content, turn, at + len(part) == stop)
                return
        yield Piece(content)

    def _cut(self, given: Given, whole: str, opened: bool) -> Iterator[Piece]:
        """The pieces of a conversation whose skeleton does not tell them: from the string alone, cut at its tokens."""
        hidden = "the tokenizer's chat template changes its texts or leaves some out"
        if any(self._special.search(text) for text in given.texts):
            raise NoText(f"{hidden}, one of which spells a special token")
        if opened:
            yield from self._literal(whole, 0, {})
            return
        numbers = [number for number, turn in enumerate(given.conversation.turns) if turn.answers]
        _, openings = self._openings(given.messages[: given.ahead + numbers[-1]], given.tools)
        starts: list[int] = []
        for opening in openings:
            starts = [match.end() for match in re.finditer(re.escape(opening), whole)]
            if self._special.search(opening) and len(starts) == len(numbers):
                break
        else:
            raise NoText(f"{hidden}, so that its answers cannot be told from the rest")
        learned = {}
        for number, start, following in zip(numbers, starts, [*starts[1:], len(whole)], strict=True):
            turn = given.conversation.turns[number]
            stop, known = self._bound(given, number, whole, following)
            tail = whole.rfind(turn.text.strip()[-_TAIL:], start, stop) if turn.role != CALL else -1
            text = start if tail < 0 else tail + len(turn.text.strip()[-_TAIL:])
            learned[number] = (start, self._end(turn, whole, text, stop, known) or stop)
        turns = given.conversation.turns
        short = {number for number, bounds in learned.items() if _lacks(whole[slice(*bounds)], turns[number])}
        for piece in self._literal(whole, 0, learned):
            yield piece._replace(short=piece.turn in short)
            short.discard(piece.turn)


class _Place(NamedTuple):
    """Text `number` in a string from `start` to `stop`, and whether white space around it was taken away."""

    number: int
    start: int
    stop: int
    left: bool
    right: bool


def _find(whole: str, marks: Sequence[str], optional: set[int]) -> list[_Place] | None:
    """Where the marks are, in order; None where one is there several times, or missing and not `optional`."""
    places = []
    for number, mark in enumerate(marks):
        inner = mark[len(PAD) : -len(PAD)]
        if number in optional and inner not in whole:
            continue
        if whole.count(inner) != 1:
            return None
        start = whole.index(inner)
        stop = start + len(inner)
        left = not whole[:start].endswith(PAD)
        right = not whole.startswith(PAD, stop)
        places.append(_Place(number, start - (not left) * len(PAD), stop + (not right) * len(PAD), left, right))
    return sorted(places, key=lambda place: place.start)


def _lacks(written: str, turn: Turn) -> bool:
    """Whether what is said in a turn is not all in what a template writes of it, white space aside."""
    said = turn.said if turn.role == CALL else turn.text
    return "".join(said.split()) not in "".join(written.split())


def _filled(item: Piece | _Text, texts: Sequence[str]) -> Piece:
    if isinstance(item, Piece):
        return item
    text = texts[item.number]
    text = text.lstrip() if item.left else text
    return Piece(text.rstrip() if item.right else text, item.turn, item.ends)
