"""Parts of a dataset: which records are held out, for ever."""

from __future__ import annotations

import pytest

from fm9g.data.stream.view import BLOCK, WHOLE, View, held_out, trained


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.999])
@pytest.mark.parametrize("records", [1, 999, 1000, 1001, 25_337])
def test_every_record_is_in_one_of_two_parts(share, records):
    parts = [trained(share), held_out(share)]
    found = [{part.record(place) for place in range(part.count(records))} for part in parts]
    assert found[0] | found[1] == set(range(records)) and not found[0] & found[1]
    assert abs(len(found[1]) - share * records) <= BLOCK * share + 1


def test_what_is_appended_moves_nothing():
    for part in (trained(0.1), held_out(0.1)):
        before = [part.record(place) for place in range(part.count(1234))]
        assert before == [part.record(place) for place in range(part.count(98_765))][: len(before)]
        assert before == sorted(before)


def test_which_records_are_held_out_never_changes():
    part = held_out(0.01)
    assert [part.record(place) for place in range(part.count(1000))] == [
        71, 164, 179, 206, 455, 479, 707, 710, 745, 925,
    ]  # fmt: skip


def test_the_whole_and_a_limit():
    assert [WHOLE.record(place) for place in (0, 999, 1000, 12_345)] == [0, 999, 1000, 12_345]
    assert (WHOLE.count(12_345), View(limit=7).count(12_345), View(limit=7).count(3)) == (12_345, 7, 3)
