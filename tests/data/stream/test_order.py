"""The keyed permutation that orders a dataset's records."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm9g.data.stream.order import Generation, Permutation, RecordOrder, stable_hash, unit_interval


@given(size=st.integers(1, 3000), key=st.tuples(st.integers(), st.text(max_size=5), st.integers(0, 10)))
@settings(max_examples=60, deadline=None)
def test_every_index_comes_once(size, key):
    permutation = Permutation(size, *key)
    assert sorted(permutation(i) for i in range(size)) == list(range(size))


@given(size=st.integers(1 << 33, 10**15), start=st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_huge_sizes_stay_in_range_and_do_not_collide(size, start):
    permutation = Permutation(size, 1)
    found = [permutation(i) for i in range(start, start + 100)]
    assert len(set(found)) == 100
    assert all(0 <= i < size for i in found)


def test_a_trillion_records_are_permuted_and_reach_everywhere():
    size = 10**12
    permutation = Permutation(size, "key")
    tenths = np.bincount([permutation(i) * 10 // size for i in range(2000)], minlength=10)
    assert tenths.min() > 140  # 200 are expected, give or take 13
    assert 0 <= permutation(size - 1) < size


@pytest.mark.parametrize("other", [(2, "task", 0), (1, "other", 0), (1, "task", 1)])
def test_seed_task_and_epoch_each_change_the_order(other):
    first, second = Permutation(500, 1, "task", 0), Permutation(500, *other)
    same = sum(first(i) == second(i) for i in range(500))
    assert same < 20  # one is expected


def test_the_same_key_gives_the_same_order():
    assert [Permutation(77, 3, "a", 0)(i) for i in range(77)] == [Permutation(77, 3, "a", 0)(i) for i in range(77)]


def test_neighbours_do_not_stay_neighbours():
    permutation = Permutation(10_000, 1)
    order = np.array([permutation(i) for i in range(10_000)])
    assert (np.abs(np.diff(order)) < 10).mean() < 0.01
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


@pytest.mark.parametrize("size", [10, 1000, 1025, 4096])
def test_orders_are_as_random_as_shuffles(size):
    """Over many seeds: fixed points, rising neighbours and the correlation with the place, against theory."""
    seeds = 300
    orders = np.array([[order(i) for i in range(size)] for order in (Permutation(size, s, "t") for s in range(seeds))])
    places = np.arange(size)
    fixed = (orders == places).sum(axis=1)  # Poisson: mean and variance 1
    assert abs(fixed.mean() - 1) < 5 / seeds**0.5
    rising = (np.diff(orders) > 0).sum(axis=1)  # Eulerian: variance (n + 1) / 12
    assert abs(rising.mean() / (size - 1) - 0.5) < 0.02
    correlation = np.array([np.corrcoef(order, places)[0, 1] for order in orders])  # variance 1 / (n - 1)
    spread = 5 * (2 / seeds) ** 0.5
    assert abs(rising.var() / ((size + 1) / 12) - 1) < spread
    assert abs(correlation.var() * (size - 1) - 1) < spread


def test_the_order_is_part_of_the_format():
    """A change of the permutation would silently give resumed runs other data."""
    assert [Permutation(10, 1234, "pretrain", 0)(i) for i in range(10)] == [5, 7, 3, 6, 0, 9, 8, 2, 1, 4]


def test_an_index_beyond_the_size_is_refused():
    with pytest.raises(AssertionError):
        Permutation(5, 1)(5)


def test_hashes_do_not_run_parts_together():
    assert stable_hash("ab", "c") != stable_hash("a", "bc")
    assert stable_hash(1, 2) == stable_hash("1", "2")


@given(st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=4))
def test_unit_interval_is_one(parts):
    value = unit_interval(*parts)
    assert 0 <= value < 1
    assert value == unit_interval(*parts)


# records that are appended while a run goes on


@st.composite
def grown(draw):
    """Generations of a dataset that grew up to three times."""
    epoch, records = 0, draw(st.integers(1, 9))
    found = [Generation(0, records)]
    for _ in range(draw(st.integers(0, 3))):
        epoch, records = epoch + draw(st.integers(0, 3)), records + draw(st.integers(1, 9))
        found.append(Generation(epoch, records))
    return found


@given(generations=grown())
@settings(max_examples=200, deadline=None)
def test_each_epoch_is_every_record_that_was_there_exactly_once(generations):
    order = RecordOrder(generations, 1, "task")
    position = 0
    for epoch in range(generations[-1].epoch + 3):
        records = max(g.records for g in generations if g.epoch <= epoch)
        end = order.end(epoch + 1)
        assert end - position == records
        assert sorted(order.record(p) for p in range(position, end)) == list(range(records))
        assert {order.epoch(p) for p in range(position, end)} == {epoch}
        assert order.epochs(position) == epoch
        position = end


@given(generations=grown(), more=st.integers(1, 9), begun=st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_appended_records_move_nothing_in_the_epochs_begun(generations, more, begun):
    before = RecordOrder(generations, 1, "task")
    epoch = max(before.epoch(begun), generations[-1].epoch)
    after = RecordOrder([*generations, Generation(epoch, generations[-1].records + more)], 1, "task")
    for position in range(before.end(epoch + 1)):
        assert after.record(position) == before.record(position)


def test_parts_of_an_epoch():
    order = RecordOrder([Generation(0, 10), Generation(1, 16)], 1, "task")
    assert [order.end(epochs) for epochs in (0.5, 1, 1.5, 2, 2.5)] == [5, 10, 18, 26, 34]
    assert [order.epochs(p) for p in (0, 5, 10, 18, 26, 34)] == [0, 0.5, 1, 1.5, 2, 2.5]
