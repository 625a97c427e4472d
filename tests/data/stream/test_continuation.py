"""The states of lanes in a run whose mixture is not what it was."""

import numpy as np
import pytest

from fm9g.data.stream.continuation import rearrange_states
from fm9g.data.stream.lane import Lane
from tests.support.corpora import OFF, SizedCorpus, deviations


def rearranged(before, now, state):
    tasks = [dict(zip(("name", "share", "epochs", "fingerprint"), task, strict=True)) for task in before]
    return rearrange_states({3: np.array(state, dtype=np.int64)}, tasks, now)[3].tolist()


A, B = ("a", 0.4, None, "1f"), ("b", 0.6, 1.0, "2f")
A_AND_B = [A, B]
# documents done, tokens, next token of the one in progress, those done in the window; rows
STATE = [5, 6, 50, 60, -1, 7, 2, 0, 9]


def test_states_follow_the_names():
    assert rearranged(A_AND_B, [B, A], STATE) == [6, 5, 60, 50, 7, -1, 0, 2, 9]


def test_the_balance_of_tokens_goes_on_where_nothing_has_changed():
    assert rearranged(A_AND_B, A_AND_B, STATE) == STATE


def test_a_document_in_progress_goes_with_its_dataset():
    assert rearranged(A_AND_B, [A, ("c", 0.6, 1.0, "2f")], STATE) == [5, 0, 0, 0, -1, -1, 2, 0, 0]


@pytest.mark.parametrize(
    "now",
    [[("a", 0.5, None, "1f"), ("b", 0.5, 1.0, "2f")], [A, ("b", 0.6, 2.0, "2f")], [A, ("b", 0.6, 1.0, "3f")]],
    ids=["shares", "epochs", "data"],
)
def test_the_balance_of_tokens_restarts(now):
    assert rearranged(A_AND_B, now, STATE) == [5, 6, 0, 0, -1, 7, 2, 0, 0]


def test_the_balance_of_tokens_restarts_where_the_epochs_were_not_saved():
    tasks = [{"name": "a", "share": 1.0, "fingerprint": "1f"}]
    states = {0: np.array([5, 50, -1, 2, 9])}
    assert rearrange_states(states, tasks, [("a", 1.0, None, "1f")])[0].tolist() == [5, 0, -1, 2, 0]


@pytest.mark.parametrize("length", [0.05, 3])  # of a document, in rows
@pytest.mark.parametrize("steps", [20 * 16, 20 * 16 + 5])
def test_a_dataset_that_had_ended_and_goes_on_takes_its_share_and_no_more(length, steps):
    """As when max_epochs is raised: what the other read meanwhile is no debt of its own."""
    row, rows_per_step = 64, 4

    def lanes(epochs):
        sizes = [max(1, round(length * row))] * round(768 / length)  # 768 rows, 12 a lane
        corpora = [SizedCorpus("a", 0.3, sizes, epochs=epochs), SizedCorpus("b", 0.7, sizes)]
        return [Lane(number, 16 * rows_per_step, corpora, 1, row, OFF) for number in range(16 * rows_per_step)]  # type: ignore[arg-type]

    def tokens(lanes, steps):
        result = np.zeros((len(steps), 2))
        for step, taken in zip(steps, result, strict=True):
            for lane in lanes[step % 16 * rows_per_step :][:rows_per_step]:
                for piece in lane.next_row().pieces:
                    taken[piece.task] += piece.places
        return result

    first = lanes(0.25)
    before = tokens(first, range(steps))
    assert before[:32, 0].sum() > 0
    assert before[-80:, 0].sum() == 0  # it has ended
    ended, other = {"name": "a", "share": 0.3, "epochs": 0.25}, {"name": "b", "share": 0.7, "epochs": None}
    saved = [{**task, "fingerprint": ""} for task in (ended, other)]
    states = {number: lane.state() for number, lane in enumerate(first)}
    states = rearrange_states(states, saved, [("a", 0.3, 1.0, ""), ("b", 0.7, None, "")])
    again = lanes(1.0)
    for number, lane in enumerate(again):
        lane.load_state(states[number])
    after = tokens(again, range(steps, steps + 80))
    assert np.abs(deviations(after, [0.3, 0.7], 16)).max() <= 0.10
