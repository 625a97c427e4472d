"""Text of unknown content on a terminal: escaped, cut, coloured, and numbers as bars."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO
from unicodedata import combining, east_asian_width

from fm9g.errors import UserError

LINE_WIDTH = 120  # columns
BAR_WIDTH = 40
COLOR_CHOICES = ("auto", "always", "never")
_IDEOGRAPHIC_SPACE = "\u3000"
_RARE_IDEOGRAPHS = range(0x20000, 0x34000)  # planes of Chinese characters, which an older Python may not know yet


def printable(text: str, backslash: bool = True) -> str:
    """`text` on one line: what a terminal would act on or not show (newlines too) is spelled as in Python.

    A backslash becomes two, so that a newline and the characters ``\\n``, often mistaken for each other, differ;
    `backslash` False leaves them single, for text that has been escaped already (JSON).
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        char if _is_shown(char) or (char == "\\" and not backslash) else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _is_shown(char: str) -> bool:
    if char.isprintable():
        return char != "\\"
    return char == _IDEOGRAPHIC_SPACE or ord(char) in _RARE_IDEOGRAPHS


def columns(text: str) -> int:
    """How wide a terminal shows a text: Chinese characters take two columns, combining marks none."""
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


def list_lines(head: str, items: Sequence[str], width: int = LINE_WIDTH) -> list[str]:
    """``head: item, item, …`` in lines of at most `width` columns that end between items, unless one is wider."""
    lines = [f"{head}:"]
    for number, item in enumerate(items, start=1):
        word = item if number == len(items) else f"{item},"
        if columns(f"{lines[-1]} {word}") > width:
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return lines


@dataclass(frozen=True)
class Span:
    """Some text of one style: `plain` is trained on, `dim` is not, `mark` is no text of the data."""

    text: str
    style: str = "plain"


def cut_middle(spans: Sequence[Span], limit: int | None) -> list[Span]:
    """The first and the last characters of the spans, `limit` in all, with a mark that says how many are left out."""
    length = sum(len(span.text) for span in spans)
    if limit is None or length <= limit:
        return list(spans)
    head = (limit + 1) // 2
    tail = limit - head
    start = _between(spans, 0, head)
    return [*start, Span(f"… {length - limit:,} characters …", "mark"), *_between(spans, length - tail, length)]


def _between(spans: Sequence[Span], first: int, last: int) -> list[Span]:
    """The characters first to last (exclusive) of the spans' text."""
    found, place = [], 0
    for span in spans:
        part = span.text[max(0, first - place) : max(0, last - place)]
        place += len(span.text)
        if part:
            found.append(Span(part, span.style))
    return found


def shorten(text: str, limit: int | None, backslash: bool = True) -> str:
    """`text` escaped (see `printable`), and cut in the middle where it is longer than `limit` characters."""
    spans = cut_middle([Span(text)], limit)
    return "".join(f" [{span.text}] " if span.style == "mark" else printable(span.text, backslash) for span in spans)


def bars(counts: Sequence[tuple[str, int]]) -> list[str]:
    """A line for each (label, count): the count, its part of all and a bar."""
    total, most = sum(count for _, count in counts), max((count for _, count in counts), default=0)
    label_width = max((len(label) for label, _ in counts), default=0)
    count_width = len(f"{most:,}")
    lines = []
    for label, count in counts:
        # what is there is seen, be it one in a million
        bar = "#" * max(round(BAR_WIDTH * count / most), 1) if count else ""
        share = count / total if total else 0.0
        lines.append(f"{label:>{label_width}}  {count:>{count_width},}  {share:6.1%}  {bar}".rstrip())
    return lines


def wants_color(choice: str, stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`; "auto" asks NO_COLOR (see no-color.org), TERM and the stream."""
    if choice not in COLOR_CHOICES:
        raise UserError(f"color must be one of {', '.join(COLOR_CHOICES)}, not {choice!r}")
    if choice != "auto":
        return choice == "always"
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def colored(text: str, *codes: int) -> str:
    """`text` between the escape sequences of SGR codes (36 is cyan, 2 dim, …)."""
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"


def as_many_as_fit(losses: list[str], width: int) -> list[str]:
    """The first losses in one part of a line, with … where some had no room; [] where none has."""
    for count in range(len(losses), 0, -1):
        part = ", ".join(losses[:count] + ["…"] * (count < len(losses)))
        if columns(part) <= width:
            return [part]
    return []
