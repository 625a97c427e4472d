"""Pieces of tensors, cut for one number of ranks and one tp_size and put together for others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm9g.checkpoint.recut import copy_common, rectangles
from fm9g.runtime.shards import Columns


class Held(NamedTuple):
    """What a rank has: flat values from `start` on, of all columns or some, and which places of the whole they are."""

    start: int
    columns: Columns | None
    places: np.ndarray


@st.composite
def cuts(draw: st.DrawFn, rows: int, width: int) -> list[Held]:
    """A matrix as some ranks hold it: in groups that cut its rows, its columns or nothing, a flat range a rank."""
    numbers = np.arange(rows * width).reshape(rows, width)
    axis = draw(st.sampled_from([None, 0, 1]))
    size = 1 if axis is None else (rows, width)[axis]
    parts = draw(st.sampled_from([n for n in range(1, 7) if size % n == 0]))
    found = []
    for part in range(parts):
        own = np.split(numbers, parts, axis)[part] if axis is not None else numbers
        bounds = sorted(draw(st.lists(st.integers(0, own.size), max_size=5)))
        for first, last in zip([0, *bounds], [*bounds, own.size], strict=True):
            if axis == 1:
                columns = Columns(part * own.shape[1], (part + 1) * own.shape[1], width)
                found.append(Held(first, columns, own.flatten()[first:last]))
            else:
                before = part * own.size if axis == 0 else 0
                found.append(Held(before + first, None, own.flatten()[first:last]))
    return found


@st.composite
def recuts(draw: st.DrawFn) -> tuple[list[Held], list[Held]]:
    rows, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    return draw(cuts(rows, width)), draw(cuts(rows, width))


@given(recuts())
def test_every_rank_is_given_just_its_values_however_they_were_cut(recut: tuple[list[Held], list[Held]]) -> None:
    saved, wanted = recut
    for held in wanted:
        into = torch.full((len(held.places),), -1.0)
        copied = sum(
            copy_common(torch.from_numpy(of.places).float(), of.start, of.columns, into, held.start, held.columns)
            for of in saved
        )
        assert into.tolist() == held.places.tolist()
        assert copied == len(held.places)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 60), st.integers(0, 60))
def test_rectangles_cover_a_piece_in_its_order(length: int, first: int, start: int, count: int) -> None:
    width = first + length + 2
    found = [
        row * width + column
        for top, bottom, left, right, _ in rectangles(start, count, Columns(first, first + length, width))
        for row in range(top, bottom)
        for column in range(left, right)
    ]
    flat = np.arange(start, start + count)
    assert found == (flat // length * width + first + flat % length).tolist()
    assert len(list(rectangles(start, count, Columns(first, first + length, width)))) <= 3
