"""A single pass reads every document once, in rows that are the same whoever reads them."""

from __future__ import annotations

from itertools import chain, islice

import pytest

from fm9g.data.stream.loader import StepBatch
from fm9g.data.stream.single_pass import ROWS_OF_LANE, SinglePass
from tests.support.corpora import OFF, SizedCorpus, sizes

ROW = 64


def corpora(documents: int, mean: float = 20.0) -> list[SizedCorpus]:
    return [
        SizedCorpus("a", 0.7, sizes(mean, "heavy", 1, ROW, documents), may_cut=False, epochs=1.0),
        SizedCorpus("b", 0.3, sizes(mean, "heavy", 2, ROW, documents), epochs=1.0),
    ]


def about(documents: int) -> int:
    """How many rows there are."""
    return sum(sum(corpus.sizes) for corpus in corpora(documents)) // ROW + 1


def read(documents: int, batch: int, rank: int, ranks: int, most_rows: int | None = None) -> list[StepBatch]:
    batches = SinglePass(corpora(documents), 1, ROW, batch, rank, ranks, about(documents), most_rows, OFF)  # type: ignore[arg-type]
    found = []
    for one in batches:
        found.append(one)
        if batches.exhausted:
            return found
    raise AssertionError("a pass has no end")


def rows_of(batches: list[StepBatch], batch: int) -> list[tuple[tuple[int, ...], ...]]:
    """(tokens, tasks, lengths) of every row that is not empty."""
    found = []
    for one in batches:
        (strip,) = one.strips
        assert sum(strip.lengths) == batch * ROW
        place, row = 0, []
        for length, task in zip(strip.lengths, strip.tasks, strict=True):
            row.append((task, *strip.tokens[place : place + length].tolist()))
            place += length
            if place % ROW == 0:
                found.append(tuple(row))
                row = []
    return [row for row in found if row[0][0] >= 0]


@pytest.mark.parametrize("documents", [1, 7, 400])
def test_neither_ranks_nor_batches_change_the_rows(documents: int) -> None:
    whole = read(documents, 1, 0, 1)
    expected = sorted(rows_of(whole, 1))
    assert sum(sum(one.documents) for one in whole) == 2 * documents
    for batch, ranks in ((3, 1), (1, 2), (4, 3), (2, 50)):
        parts = [read(documents, batch, rank, ranks) for rank in range(ranks)]
        assert sorted(chain.from_iterable(rows_of(part, batch) for part in parts)) == expected
        assert sum(sum(one.documents) for part in parts for one in part) == 2 * documents


@pytest.mark.parametrize("most", [1, 5, 64, 10_000])
def test_a_part_is_of_so_many_rows_and_the_same_for_all(most: int) -> None:
    whole = rows_of(read(400, 1, 0, 1), 1)
    expected = sorted(rows_of(read(400, 1, 0, 1, most), 1))
    assert len(expected) == min(most, len(whole))
    parts = [rows_of(read(400, 2, rank, 3, most), 2) for rank in range(3)]
    assert sorted(chain.from_iterable(parts)) == expected


def test_rows_are_mostly_full_and_ranks_have_about_as_many() -> None:
    """Of a long pass each lane's last row may be empty in part."""
    for documents in (400, 4000):
        rows = [len(rows_of(read(documents, 1, rank, 16), 1)) for rank in range(16)]
        places = sum(sum(corpus.sizes) for corpus in corpora(documents))
        assert places / (ROW * sum(rows)) > 0.8
        assert max(rows) <= 1.4 * sum(rows) / len(rows) + ROWS_OF_LANE


def test_a_part_is_shared_out_row_by_row() -> None:
    assert [len(read(400, 1, rank, 8, 16)) for rank in range(8)] == [2] * 8


def test_after_the_last_batch_they_are_empty() -> None:
    batches = SinglePass(corpora(1), 1, ROW, 2, 0, 1, 1, None, OFF)  # type: ignore[arg-type]
    found = list(islice(batches, 4))
    assert [sum(one.tokens) > 0 for one in found] == [True, False, False, False]
    assert found[3].strips[0].tasks == [-1, -1]
