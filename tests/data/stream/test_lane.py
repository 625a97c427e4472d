"""Lanes: every document once an epoch, tokens by share, rows without a lost target, and states that continue."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm9g.data.stream import lane as lane_module
from fm9g.data.stream.document import Document
from fm9g.data.stream.lane import Lane
from fm9g.data.stream.lane_state import LaneState
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.window import WINDOW
from fm9g.errors import UserError
from tests.support.corpora import OFF, SizedCorpus

ROW = 16


class WatchedLane(Lane):
    """A lane that notes after each piece who is active, if documents are short, the piece and the tokens."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.moments = []

    def _take(self, task, slot, room, row):
        places = super()._take(task, slot, room, row)
        active, document = list(self._turns.shares), row.pieces[-1].document
        self.moments.append((active, self._short, task, document.places, list(self._tokens)))
        return places


def make_lanes(corpora, count, kind=Lane, seed=7, row=ROW):
    return [kind(number, count, corpora, seed, row, OFF) for number in range(count)]


def rows_until_exhausted(lane):
    rows = []
    while not lane.exhausted:
        rows.append(lane.next_row())
    return rows


def pieces(rows):
    """(task, record, first, last) of each piece of rows."""
    return [(p.task, p.document.record, p.first, p.last) for row in rows for p in row.pieces]


@st.composite
def mixtures(draw, ending=False):
    """One to four corpora with cut and uncut documents, dropped ones among them."""
    weights = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    corpora = []
    for number, weight in enumerate(weights):
        may_cut = draw(st.booleans())
        sizes = draw(st.lists(st.integers(0, 6 * ROW if may_cut else ROW), min_size=1, max_size=12))
        if not any(sizes):
            sizes[0] = 1  # a corpus without any text is an error, tested below
        epochs = draw(st.sampled_from([0.5, 1.0, 1.5, 2.0])) if ending else None
        corpora.append(SizedCorpus(f"task{number}", weight / sum(weights), sizes, may_cut, epochs))
    return corpora


@given(corpora=mixtures(ending=True), count=st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_all_lanes_together_read_every_epoch_of_every_record_exactly_once(corpora, count):
    rows = [row for lane in make_lanes(corpora, count) for row in rows_until_exhausted(lane)]
    begun = collections.Counter((task, record) for task, record, first, _ in pieces(rows) if first == 0)
    expected = collections.Counter(
        (task, corpus.record(position))
        for task, corpus in enumerate(corpora)
        for position in range(corpus.end)
        if corpus.sizes[corpus.record(position)]
    )
    assert begun == expected


@given(corpora=mixtures(), count=st.integers(1, 7), number=st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_a_lane_reads_its_own_positions_in_order_but_for_a_window(corpora, count, number):
    """Documents that may be cut come in order; of the others, none is passed by more than a window."""
    lane = make_lanes(corpora, count)[number % count]
    taken = pieces(lane.next_row() for _ in range(30))
    for task, corpus in enumerate(corpora):
        records = [record for which, record, first, _ in taken if which == task and first == 0]
        positions = itertools.count(number % count, count)
        kept = (corpus.record(position) for position in positions if corpus.sizes[corpus.record(position)])
        waiting = [next(kept) for _ in range(WINDOW)]
        for record in records:
            assert record in waiting[: 1 if corpus.may_cut else WINDOW]
            waiting.remove(record)
            waiting.append(next(kept))


@given(corpora=mixtures(ending=True), count=st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_no_target_is_lost_or_given_twice(corpora, count):
    for lane in make_lanes(corpora, count):
        unfinished = {}
        for task, record, first, last in pieces(rows_until_exhausted(lane)):
            # the rest of a cut document begins with the token that was the last target, before any other of its corpus
            assert (record, first) == unfinished.pop(task, (record, 0))
            if last < corpora[task].sizes[record]:
                assert corpora[task].may_cut
                unfinished[task] = (record, last)
        assert not unfinished


def window(lane, task):
    """The usable documents of a dataset that a lane may take next."""
    window = lane._windows[task]
    documents = [window.document(slot) for slot in range(WINDOW) if not window.taken >> slot & 1]
    return [document for document in documents if isinstance(document, Document)]


@given(corpora=mixtures(), count=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_row_is_full_unless_the_next_document_must_not_be_cut(corpora, count):
    lane = make_lanes(corpora, count)[0]
    for _ in range(20):
        row = lane.next_row()
        filled = sum(piece.places for piece in row.pieces)
        if filled < ROW:
            tokens = lane.state()[len(corpora) : 2 * len(corpora)]
            behind = min(
                range(len(corpora)), key=lambda task: tokens[task] / corpora[task].entry.share
            )  # always may come
            assert not corpora[behind].may_cut
            assert all(document.places > ROW - filled for document in window(lane, behind))
        assert filled <= ROW


@given(
    corpora=mixtures(),
    count=st.integers(1, 5),
    number=st.integers(0, 4),
    ending=st.booleans(),
    row=st.sampled_from([ROW, 40 * ROW]),
)
@settings(max_examples=100, deadline=None)
def test_tokens_follow_the_shares(corpora, count, number, ending, row):
    """A dataset leads by LEAD_ROWS rows at most, by its last document where documents are short; so with lagging."""
    if ending:
        for corpus in corpora[1:]:
            corpus.end = 5 * corpus.records
    lane = make_lanes(corpora, count, WatchedLane, row=row)[number % count]
    for _ in range(40):
        lane.next_row()
    bound = [0] * len(corpora)
    assert lane.moments
    for active, short, task, places, tokens in lane.moments:
        if short:
            bound[task] = min(places, row)
        else:
            bound = [lane_module.LEAD_ROWS * row] * len(corpora)
        total, whole = sum(tokens), sum(corpora[d].entry.share for d in active)
        for d in active:
            surplus = tokens[d] - corpora[d].entry.share / whole * total
            assert surplus <= bound[d] + 1e-9
            assert -surplus <= sum(bound[other] for other in active if other != d) + 1e-9


def test_a_very_long_document_does_not_hold_up_its_lane():
    """It is put aside when it is another dataset's turn, and goes on later where it was left."""
    corpora = [SizedCorpus("book", 0.5, [100 * ROW]), SizedCorpus("notes", 0.5, [4, 5, 6])]
    (lane,) = make_lanes(corpora, 1)
    taken = pieces(lane.next_row() for _ in range(40))
    book = [(first, last) for task, _, first, last in taken if task == 0]
    assert book[0][0] == 0
    assert all(last == first for (_, last), (first, _) in itertools.pairwise(book))
    assert 19 * ROW <= book[-1][1] <= 22 * ROW  # half of the forty rows
    alone = [{piece.task for piece in row.pieces} == {0} for row in (lane.next_row() for _ in range(40))]
    assert not any(all(alone[i : i + 3]) for i in range(38))


@given(corpora=mixtures(), ending=st.booleans(), before=st.integers(0, 25))
@settings(max_examples=80, deadline=None)
def test_a_state_continues_with_the_same_rows(corpora, ending, before):
    if ending:
        for corpus in corpora:
            corpus.end = 3 * corpus.records
    lane, other = make_lanes(corpora, 2)[1], make_lanes(corpora, 2)[1]
    for _ in range(before):
        lane.next_row()
    other.load_state(lane.state())
    for _ in range(15):
        expected, row = lane.next_row(), other.next_row()
        assert pieces([row]) == pieces([expected])
        assert row.begun == expected.begun
        assert other.state().tolist() == lane.state().tolist()
        assert other.exhausted == lane.exhausted


def test_a_state_is_a_few_integers():
    corpora = [SizedCorpus("a", 0.5, [3]), SizedCorpus("b", 0.5, [40])]
    state = make_lanes(corpora, 1)[0].state()
    assert state.dtype == np.int64
    assert state.shape == (LaneState.size(2),) == (9,)


def test_the_billionth_document_is_reached_without_those_before_it():
    corpus = SizedCorpus("a", 1.0, [ROW] * 1000)
    asked = []
    corpus.document = lambda position, made=corpus.document: asked.append(position) or made(position)  # type: ignore[method-assign, misc]
    lane = Lane(5, 64, [corpus], 7, ROW, OFF)  # type: ignore[list-item]
    state = lane.state()
    state[0] = 10**9 // 64  # documents done
    lane.load_state(state)
    (piece,) = lane.next_row().pieces
    position = 5 + 10**9 // 64 * 64
    assert piece.document.record == corpus.record(position)
    assert set(asked) == {position}


def test_lanes_do_not_move_in_step():
    corpora = [SizedCorpus("a", 0.5, [10] * 9), SizedCorpus("b", 0.5, [10] * 9)]
    firsts = [lane.next_row().pieces[0].task for lane in make_lanes(corpora, 64)]
    assert 16 <= sum(firsts) <= 48


def test_a_dataset_of_weight_zero_is_not_read_and_does_not_keep_a_lane_going():
    corpora = [SizedCorpus("a", 1.0, [5, 6], epochs=1.0), SizedCorpus("b", 0.0, [5])]
    (lane,) = make_lanes(corpora, 1)
    assert {task for task, *_ in pieces(rows_until_exhausted(lane))} == {0}


def test_a_lane_beyond_a_small_dataset_has_nothing_to_read():
    lanes = make_lanes([SizedCorpus("a", 1.0, [5, 5], epochs=1.0)], 4)
    assert [lane.exhausted for lane in lanes] == [False, False, True, True]
    assert lanes[3].next_row().pieces == []
    assert lanes[0].next_row().begun == {0: 1}
    assert lanes[0].exhausted
    assert lanes[0].next_row().pieces == []


def test_a_small_dataset_repeats_over_more_lanes_than_it_has_records():
    rows = [lane.next_row() for lane in make_lanes([SizedCorpus("a", 1.0, [ROW] * 3)], 12)]
    assert collections.Counter(record for _, record, *_ in pieces(rows)) == {0: 4, 1: 4, 2: 4}


def test_after_a_dataset_ends_the_others_share_anew():
    """What the ended dataset took is no debt, and what the others were given is no credit."""
    corpora = [
        SizedCorpus("long", 0.8, [8] * 40, epochs=1.0),
        SizedCorpus("b", 0.1, [8] * 5),
        SizedCorpus("c", 0.1, [8] * 5),
    ]
    (lane,) = make_lanes(corpora, 1)
    tasks = [task for task, *_ in pieces(lane.next_row() for _ in range(60))]
    after = tasks[len(tasks) - tasks[::-1].index(0) :]
    assert len(after) > 40
    for length in range(2, len(after), 2):
        assert abs(after[:length].count(1) - length / 2) <= 1


def test_documents_begun_are_counted_once_however_they_are_cut():
    corpora = [SizedCorpus("a", 1.0, [3 * ROW], epochs=2.0)]
    (lane,) = make_lanes(corpora, 1)
    assert [row.begun for row in rows_until_exhausted(lane)] == [{0: 1}, {}, {}, {0: 1}, {}, {}]


def test_a_document_that_must_not_be_cut_waits_for_the_next_row():
    corpora = [SizedCorpus("a", 1.0, [10], may_cut=False)]
    (lane,) = make_lanes(corpora, 1)
    assert [[piece.places for piece in lane.next_row().pieces] for _ in range(3)] == [[10], [10], [10]]


def test_a_dataset_that_is_dropped_throughout_is_an_error(monkeypatch):
    monkeypatch.setattr(lane_module, "MOST_SKIPS", 50)
    (lane,) = make_lanes([SizedCorpus("empty", 1.0, [0, 0, 0])], 1)
    with pytest.raises(
        UserError, match=r"dataset 'empty': 50 records in a row cannot be used \(the last one: it is empty\)"
    ):
        lane.next_row()


def test_the_limit_of_skips_is_ten_thousand():
    assert lane_module.MOST_SKIPS == 10_000


def test_drops_between_documents_are_no_error(monkeypatch):
    monkeypatch.setattr(lane_module, "MOST_SKIPS", 9)  # at most 4 at the end of an epoch and 4 at the next one's start
    (lane,) = make_lanes([SizedCorpus("a", 1.0, [0, 0, 0, 0, 4])], 1)
    assert sum(row.begun[0] for row in (lane.next_row() for _ in range(20))) >= 20


def test_a_finite_dataset_of_dropped_records_only_ends():
    corpora = [SizedCorpus("empty", 0.5, [0, 0], epochs=1.0), SizedCorpus("b", 0.5, [4, 4], epochs=1.0)]
    (lane,) = make_lanes(corpora, 1)
    assert sorted(task for task, *_ in pieces(rows_until_exhausted(lane))) == [1, 1]


def test_a_lane_reads_ahead_for_its_next_row():
    class Noted(Prefetcher):
        def __init__(self):
            super().__init__(1, 2)
            self.asked = []

        def want(self, records):
            self.asked.append(records)

    prefetcher = Noted()
    corpus = SizedCorpus("a", 1.0, [ROW // 2] * 99)
    lane = Lane(1, 4, [corpus], 7, ROW, prefetcher)  # type: ignore[list-item]
    for _ in range(3):
        lane.next_row()
    # after each row of two documents the two that the next one takes and two more, each but once
    rows = [range(9, 25, 4), range(25, 33, 4), range(33, 41, 4)]
    assert prefetcher.asked == [[(corpus.dataset, corpus.record(position)) for position in row] for row in rows]


def test_what_is_prepared_is_tokenized_once_and_of_lines_that_are_due():
    """Before the first row as many documents as it may take; then those that the row has used up, anew."""
    asked = []

    class Noted(SizedCorpus):
        def encoded(self, texts):
            asked.append([text.record for text in texts])
            return super().encoded(texts)

    corpus = Noted("a", 1.0, [ROW // 2] * 99)
    (lane,) = make_lanes([corpus], 1)
    lane.prepare()
    lane.prepare()
    assert asked == [[corpus.record(position) for position in range(3)]]
    taken = [record for _, record, *_ in pieces([lane.next_row() for _ in range(20)])]
    assert taken == [corpus.record(position) for position in range(40)]
    prepared = [record for records in asked for record in records]
    assert prepared == [corpus.record(position) for position in range(len(prepared))]
    assert 40 <= len(prepared) <= 43


def test_the_seed_changes_the_phases():
    corpora = [SizedCorpus("a", 0.5, [10] * 9), SizedCorpus("b", 0.5, [10] * 9)]
    firsts = [[lane.next_row().pieces[0].task for lane in make_lanes(corpora, 32, seed=seed)] for seed in (1, 2)]
    assert firsts[0] != firsts[1]


def test_a_row_knows_which_tokens_it_holds():
    (lane,) = make_lanes([SizedCorpus("a", 1.0, [ROW + 4])], 1)
    first, second = lane.next_row().pieces, lane.next_row().pieces
    assert [(p.first, p.last) for p in first] == [(0, ROW)]
    assert [(p.first, p.last) for p in second] == [(ROW, ROW + 4), (0, ROW - 4)]
    assert [p.task for p in first + second] == [0, 0, 0]


def test_a_document_that_does_not_fit_waits_while_a_smaller_one_takes_the_room():
    corpora = [SizedCorpus("a", 1.0, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1] * 3, may_cut=False, epochs=2.0)]
    (lane,) = make_lanes(corpora, 1)
    rows = rows_until_exhausted(lane)
    filled = [sum(piece.places for piece in row.pieces) for row in rows]
    assert all(size == ROW for size in filled[:10])  # in order, 30 % of them would not be
    begun = collections.Counter(record for _, record, *_ in pieces(rows))
    assert begun == dict.fromkeys(range(30), 2)


def test_rows_of_short_answers_are_filled_to_98_percent():
    """Lengths like those of instruction sets: most short, a few long, rows of four average documents."""
    sizes = np.minimum(np.random.default_rng(3).lognormal(4.7, 0.8, 4000).astype(int) + 3, 512).tolist()
    lane = Lane(0, 1, [SizedCorpus("a", 1.0, sizes, may_cut=False)], 7, 512, OFF)  # type: ignore[list-item]
    filled = [sum(piece.places for piece in lane.next_row().pieces) for _ in range(500)]
    assert sum(filled) >= 0.98 * 512 * len(filled)


def test_what_is_skipped_is_told_with_its_row():
    (lane,) = make_lanes([SizedCorpus("a", 1.0, [0, ROW, 0, ROW])], 1)
    skipped = [skip for row in (lane.next_row() for _ in range(4)) for skip in row.skipped]
    assert {(task, skip.record, skip.reason) for task, skip in skipped} == {
        (0, 0, "it is empty"),
        (0, 2, "it is empty"),
    }
    assert 3 <= len(skipped) <= 5


def test_a_document_that_was_damaged_while_it_waited_is_skipped():
    corpora = [SizedCorpus("a", 1.0, [ROW + 4, 3, 3, 3])]
    (lane,) = make_lanes(corpora, 1)
    while (state := lane.state())[2] == -1:
        lane.next_row()
    corpora[0].sizes[0] = 0
    (again,) = make_lanes(corpora, 1)
    again.load_state(state)
    row = again.next_row()
    assert {skip.record for _, skip in row.skipped} == {0}
    assert sum(piece.places for piece in row.pieces) == ROW
