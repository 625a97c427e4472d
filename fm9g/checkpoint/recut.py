"""Flat pieces of a tensor, cut again: from how one number of ranks had held it to how another holds it.

A piece is a flat range of the whole tensor, or of some of its columns, which is what a rank has of a matrix whose
inputs tensor parallelism cuts. In the whole matrix it is three rectangles at most: the end of a row, rows, the begin
of one. What two pieces have in common is what their rectangles have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from fm9g.runtime.shards import Columns


class Rectangle(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of a matrix, row by row in a piece from `at` on."""

    top: int
    bottom: int
    left: int
    right: int
    at: int


def rectangles(start: int, count: int, columns: Columns) -> Iterator[Rectangle]:
    """Those of `count` values from `start` on in the flat columns."""
    length = columns.last - columns.first
    at = 0
    while at < count:
        row, behind = divmod(start + at, length)
        whole_rows = (count - at) // length
        if behind or not whole_rows:  # a part of a row
            rows, taken = 1, min(length - behind, count - at)
            yield Rectangle(row, row + 1, columns.first + behind, columns.first + behind + taken, at)
        else:
            rows, taken = whole_rows, length
            yield Rectangle(row, row + rows, columns.first, columns.last, at)
        at += rows * taken


def copy_common(
    source: Tensor, source_start: int, source_columns: Columns | None, into: Tensor, start: int, columns: Columns | None
) -> int:
    """Copy from one flat piece of a tensor into another what both have of it; how many values that are."""
    width = max((of.width for of in (source_columns, columns) if of is not None), default=0)
    if not width:  # one row of all values
        width = max(source_start + len(source), start + len(into), 1)
    every = Columns(0, width, width)
    copied = 0
    for theirs in rectangles(source_start, len(source), source_columns or every):
        for ours in rectangles(start, len(into), columns or every):
            top, bottom = max(theirs.top, ours.top), min(theirs.bottom, ours.bottom)
            left, right = max(theirs.left, ours.left), min(theirs.right, ours.right)
            if top < bottom and left < right:
                common = Rectangle(top, bottom, left, right, 0)
                _part(into, ours, common).copy_(_part(source, theirs, common))
                copied += (bottom - top) * (right - left)
    return copied


def _part(values: Tensor, of: Rectangle, common: Rectangle) -> Tensor:
    """What a piece's rectangle has in a part of it."""
    length = of.right - of.left
    rows = values[of.at : of.at + (of.bottom - of.top) * length].view(-1, length)
    return rows[common.top - of.top : common.bottom - of.top, common.left - of.left : common.right - of.left]
