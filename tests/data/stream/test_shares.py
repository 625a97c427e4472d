"""The shares of datasets in what a whole run reads, by windows of steps: right from the first step on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm9g.data.stream.fills import deal
from fm9g.data.stream.turns import Turns
from tests.support.corpora import SizedCorpus, deviations, sizes, tokens_by_step

ROW = 64
FEW = settings(max_examples=settings().max_examples * 8 // 100, deadline=None)
MEANS = [0.02, 0.1, 0.3, 0.5, 0.7, 1, 1.3, 2, 10, 250]  # rows


def by_chance(share, window, rows_per_step):
    """Three standard deviations of a share, each row of a window being a dataset's or not by lot.

    Rows of one dataset each vary the most; shares that are balanced are to be well within that. Of some 200 windows
    and two numbers of steps that are looked at in each example, one in two would exceed it by chance.
    """
    return 3 * math.sqrt(share * (1 - share) / (window * rows_per_step))


def two_corpora(share, kinds, seed, may_cut=True):
    return [
        SizedCorpus(
            f"task{number}", part, sizes(mean * ROW, spread, seed + number, None if may_cut else ROW, 200), may_cut
        )
        for number, (part, (mean, spread)) in enumerate(zip([share, 1 - share], kinds, strict=True))
    ]


kinds = st.tuples(st.sampled_from(MEANS), st.sampled_from(["same", "geometric", "heavy"]))
percents = st.integers(2, 98)


@FEW
@given(percent=percents, kinds=st.tuples(kinds, kinds), rows_per_step=st.integers(4, 5), seed=st.integers(0, 10**6))
def test_shares_are_right_from_the_first_steps_on_whatever_the_lengths(percent, kinds, rows_per_step, seed):
    """Within 10 points in any 16 steps in a row, the first ones included; in longer windows, within chance."""
    share = percent / 100
    tokens = tokens_by_step(two_corpora(share, kinds, seed), rows_per_step, 6 * 16, seed, ROW)
    assert np.abs(deviations(tokens, [share, 1 - share], 16)).max() <= 0.10
    for window in (32, 64):
        off = np.abs(deviations(tokens, [share, 1 - share], window)).max()
        # of a share of a few rows, two rows may be more than that
        assert off <= max(by_chance(share, window, rows_per_step), 2 / (window * rows_per_step))


@FEW
@given(
    percent=percents,
    means=st.tuples(st.sampled_from(MEANS[:8]), st.sampled_from(MEANS[:8])),
    other_may_cut=st.booleans(),
    rows_per_step=st.integers(4, 5),
    seed=st.integers(0, 10**6),
)
def test_shares_of_documents_that_must_not_be_cut(percent, means, other_may_cut, rows_per_step, seed):
    """Rows are not equally full, and within 10 points all the same."""
    share = percent / 100
    corpora = two_corpora(share, [(mean, "geometric") for mean in means], seed, may_cut=False)
    corpora[1] = two_corpora(share, [(mean, "geometric") for mean in means], seed, may_cut=other_may_cut)[1]
    tokens = tokens_by_step(corpora, rows_per_step, 6 * 16, seed, ROW)
    assert np.abs(deviations(tokens, [share, 1 - share], 16)).max() <= 0.10


@pytest.mark.parametrize(
    ("shares", "sizes", "may_cut"),
    [
        ([0.5, 0.5], (33, 200), (False, True)),  # of 64 places: no two of the first fit a row
        ([0.8, 0.2], (40, 3), (False, False)),  # the first alone, in every row, would have less than its share
        ([0.4, 0.6], (45, 20), (False, True)),
        ([0.4, 0.6], (45, 19), (False, False)),
    ],
)
def test_shares_where_a_document_leaves_room_for_others_alone(shares, sizes, may_cut):
    parts = zip(shares, sizes, may_cut, strict=True)
    corpora = [SizedCorpus(f"task{i}", share, [size] * 100, cut) for i, (share, size, cut) in enumerate(parts)]
    tokens = tokens_by_step(corpora, 4, 20 * 16, 1, ROW)
    assert np.abs(deviations(tokens, shares, 16)).max() <= 0.05


def test_documents_of_250_rows():
    """Two languages as 0.6 and 0.4, 16,000 tokens a document: windows of 16 steps once read 68, 17, 3, 25, 73, 84 %."""
    corpora = two_corpora(0.6, [(250, "same"), (250, "same")], 1)
    tokens = tokens_by_step(corpora, 4, 20 * 16, 1, ROW)
    for window in (1, 4, 16, 64):  # of 4, 16, 64 and 256 rows two: some windows are two stretches of lanes
        assert np.abs(deviations(tokens, [0.6, 0.4], window)).max() <= 2 / (4 * window)


@pytest.mark.parametrize("length", [0.1, 1, 10, 250])
def test_three_datasets(length):
    shares = [0.5, 0.3, 0.2]
    corpora = [SizedCorpus(f"task{i}", share, sizes(length * ROW, "geometric", i)) for i, share in enumerate(shares)]
    tokens = tokens_by_step(corpora, 4, 20 * 16, 1, ROW)
    assert np.abs(deviations(tokens, shares, 16)).max() <= 0.04
    assert np.abs(deviations(tokens, shares, 64)).max() <= 0.01


def test_a_share_of_two_percent():
    corpora = two_corpora(0.98, [(10, "geometric"), (0.1, "geometric")], 1)
    tokens = tokens_by_step(corpora, 4, 20 * 16, 1, ROW)
    assert np.abs(deviations(tokens, [0.98, 0.02], 16)).max() <= 0.03
    assert np.abs(deviations(tokens, [0.98, 0.02], 64)).max() <= 0.02


def test_a_step_of_many_rows_is_right_by_itself():
    tokens = tokens_by_step(two_corpora(0.6, [(10, "geometric"), (0.3, "heavy")], 1), 64, 64, 1, ROW)
    assert np.abs(deviations(tokens, [0.6, 0.4], 1)).max() <= 0.03


def test_shares_are_right_soon_after_a_dataset_has_ended():
    """The two that are left share as they would have alone, though each lane reaches the end in a row of its own."""
    lengths = [3, 10, 10]  # rows
    corpora = [
        SizedCorpus(f"task{i}", share, sizes(lengths[i] * ROW, "same", i)) for i, share in enumerate([0.5, 0.3, 0.2])
    ]
    corpora[0].end = 2 * 64  # two documents of each lane: six rows of the first twelve
    tokens = tokens_by_step(corpora, 4, 40 * 16, 1, ROW)
    last = max(step for step, row in enumerate(tokens) if row[0])
    assert 11 * 16 <= last < 15 * 16
    left = tokens[last + 1 :, 1:]
    assert np.abs(deviations(left, [0.6, 0.4], 16)).max() <= 0.10
    assert np.abs(deviations(left, [0.6, 0.4], 64)).max() <= by_chance(0.6, 64, 4)


# the sequence of turns


def turns_of(weights, lane, rows):
    shares = tuple(weight / sum(weights) for weight in weights)
    dealt = deal(tuple(() for _ in shares), shares, 1)
    return Turns(dict(enumerate(shares)), dealt, [(0.37 + 0.618 * i) % 1 for i in range(len(shares))], lane, rows)


def sequence(turns, length):
    taken = []
    for _ in range(length):
        taken.append(turns.by_row([turns.expected[task] for task in turns.shares])[0])
        turns.advance()
    return taken


@given(weights=st.lists(st.integers(1, 99), min_size=1, max_size=9), lane=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_lanes_read_one_sequence_of_turns_from_different_places(weights, lane):
    here = sequence(turns_of(weights, lane, 0), 40)
    assert sequence(turns_of(weights, lane + 7, 0), 33) == here[7:]
    assert sequence(turns_of(weights, lane, 11), 29) == here[11:]  # and a state continues it


@given(weights=st.lists(st.integers(1, 99), min_size=2, max_size=9), lane=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_any_stretch_of_turns_has_the_shares(weights, lane):
    """To one turn for two datasets. Of more, several may fall due at once, which moves the others by some turns."""
    taken = np.array(sequence(turns_of(weights, lane, 0), 120))
    for task, weight in enumerate(weights):
        share = weight / sum(weights)
        counts = np.concatenate([[0], np.cumsum(taken == task)])
        for length in range(1, 60):
            off = np.abs(counts[length:] - counts[:-length] - share * length)
            assert off.max() <= 1 + share * 2 * (len(weights) - 2) + 1e-9
