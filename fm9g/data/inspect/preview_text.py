"""What tools/preview_mixture.py prints: rows, pieces and shares, in colours or with markers that say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fm9g.data.inspect.preview import ShownPiece, ShownRow, Totals
from fm9g.data.stream.mixture import MixtureEntry
from fm9g.display import Span, colored, cut_middle, printable

_COLORS = (36, 33, 32, 35, 34)  # cyan, yellow, green, magenta, blue
_DIM, _GREY = 2, 90
_CUT = 300  # characters of a piece


@dataclass(frozen=True)
class Style:
    """`color`: with escape sequences; `full`: no text is cut."""

    color: bool
    full: bool

    def legend(self) -> str:
        """How to read the text."""
        loss = "dim: tokens without loss" if self.color else "⟦ ⟧: tokens without loss"
        return (
            f"{loss}; ‹ ›: special tokens, which text that is spelled like them is not; "
            f"{'each piece has its colour; ' if self.color else ''}a piece is a document or a part of one; "
            "its first token is no target; records count from 0"
        )

    def text(self, spans: Sequence[Span], number: int) -> str:
        """A piece's text; `number` is its place in the row."""
        return "".join(self._span(span, _COLORS[number % len(_COLORS)]) for span in cut_middle(spans, self._limit))

    @property
    def _limit(self) -> int | None:
        return None if self.full else _CUT

    def _span(self, span: Span, code: int) -> str:
        if span.style == "mark":
            return colored(f" [{span.text}] ", _GREY) if self.color else f" [{span.text}] "
        text = printable(span.text)
        if self.color:
            return colored(text, _DIM, code) if span.style == "dim" else colored(text, code)
        return f"⟦{text}⟧" if span.style == "dim" else text

    def faint(self, text: str) -> str:
        """Grey where there are colours."""
        return colored(text, _GREY) if self.color else text


def row_lines(row: ShownRow, row_length: int, entries: Sequence[MixtureEntry], style: Style) -> list[str]:
    """A row: its fill, then each piece with its text, then its padding."""
    loss = sum(piece.with_loss for piece in row.pieces)
    lines = [
        f"step {row.step}, row {row.number} (rank {row.rank}, micro-step {row.micro}): {row.filled:,} of "
        f"{row_length:,} places filled ({row.filled / row_length:.1%}), {_counted(len(row.pieces), 'piece')}, "
        f"{loss:,} with loss"
    ]
    for number, piece in enumerate(row.pieces):
        lines.append(f"  {number + 1}. {_origin(piece, entries)}")
        lines.append(f"     {style.text(piece.spans, number)}")
    if row.filled < row_length:
        lines.append(style.faint(f"  padding: {_counted(row_length - row.filled, 'place')}"))
    return lines


def _origin(piece: ShownPiece, entries: Sequence[MixtureEntry]) -> str:
    notes = {
        "continued": piece.first > 0,
        "to be continued": piece.last < piece.length - 1,
        "its head: too long for a row": piece.is_head,
    }
    note = ", ".join(text for text, holds in notes.items() if holds) or "whole"
    name, sequence = printable(entries[piece.task].task_name), ""
    if piece.sequences > 1:
        sequence = f", sequence {piece.sequence + 1} of {piece.sequences}"
    return (
        f"{name}, record {piece.record}{sequence}, tokens {piece.first}-{piece.last} of "
        f"{piece.length} ({note}), {piece.with_loss} with loss{_weights(piece.weights)}"
    )


def _weights(weights: Sequence[float]) -> str:
    """Of which weights tokens are: all, or the least and the largest."""
    if len(weights) > 3:
        return f" of weights {weights[0]:g} to {weights[-1]:g}"
    return f" of weight {', '.join(f'{weight:g}' for weight in weights)}" if weights else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def total_lines(totals: Totals, entries: Sequence[MixtureEntry]) -> list[str]:
    """Fill over all steps, and of each dataset: its share of tokens as asked and as read, documents, records."""
    filled = totals.filled
    lines = [
        f"{_counted(totals.steps, 'step')}, {_counted(totals.rows, 'row')}, {totals.places:,} places: "
        f"{filled:,} filled ({filled / totals.places:.1%}), "
        f"{totals.with_loss:,} with loss ({totals.with_loss / totals.places:.1%})",
        f"{'asked':>7} {'read':>7} {'tokens':>14} {'documents':>12} {'records':>12}  dataset",
    ]
    for task, entry in enumerate(entries):
        tokens = totals.tokens[task]
        lines.append(
            f"{entry.share:7.1%} {tokens / filled if filled else 0.0:7.1%} {tokens:14,} {totals.documents[task]:12,} "
            f"{len(totals.records[task]):12,}  {printable(entry.task_name)}"  # last, since names differ in width
        )
    for entry, count, skipped in zip(entries, totals.short, totals.skipped, strict=True):
        name = printable(entry.task_name)
        if count:
            lines.append(f"{name}: the template leaves something out of {_counted(count, 'answer')}")
        if skipped:
            lines.append(f"{name}: {_counted(len(skipped), 'record')} left out, the first is {printable(skipped[0])}")
    return lines
