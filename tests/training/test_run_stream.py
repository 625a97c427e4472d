"""A run's data step by step: what is counted, when it is done, and how it ends."""

import pytest

from fm9g.errors import UserError
from tests.support.places import index, prose_records
from tests.support.runs_here import train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")


def test_a_step_is_done_when_who_learned_from_it_says_so(place, tmp_path):
    with training_here(place, tmp_path, train_iters=3) as loop:
        stream = loop.stream
        steps = stream.steps(loop.learner.units)
        first = next(steps)
        assert (stream.progress.step, stream.progress.tokens, sum(stream.records_done())) == (0, 0, 0)
        stream.advance(first)
        assert (stream.progress.step, stream.progress.tokens) == (1, first.counts.all_places)
        after_one = stream.digest.fold()
        for step in steps:
            stream.advance(step)
        assert stream.progress.step == 3
        assert stream.progress.tokens == sum(stream.progress.task_tokens.values())
        assert stream.digest.fold() != after_one


def test_epochs_are_records_read_of_those_there_are(place, tmp_path):
    with training_here(place, tmp_path, train_iters=3) as loop:
        for step in loop.stream.steps(loop.learner.units):
            loop.stream.advance(step)
        read = dict(zip(loop.stream.names, loop.stream.records_done(), strict=True))
        there = {corpus.entry.task_name: corpus.records for corpus in loop.stream.corpora}
        assert loop.stream.epochs() == {name: pytest.approx(read[name] / there[name], abs=1e-6) for name in there}


@pytest.fixture
def short(place, tmp_path):
    """Ten texts, read once."""
    index(tmp_path / "short", prose_records(10))
    entry = {"path": str(tmp_path / "short"), "abs_weight": 1, "allow_repeat": False}
    return place.write_mixture("short_once", [entry])


def test_data_that_ends_before_the_run_is_refused_at_its_end(place, tmp_path, short):
    words = {"dataset_config": short, "train_iters": 50, "stop_when_end": 0}
    with pytest.raises(UserError, match=r"the mixture is exhausted after \d+ of 50 steps: use stop_when_end=1"):
        train_here(place, tmp_path / "refused", **words)
    ended = train_here(place, tmp_path / "ended", **{**words, "stop_when_end": 1})
    assert "the mixture is exhausted after" in ended.log
    assert ended.steps() == [len(ended.metrics())]  # what was learned is saved


def test_a_run_that_is_done_says_so(place, tmp_path):
    train_here(place, tmp_path, save_iters=1)
    again = train_here(place, tmp_path, save_iters=1, resume_ckpt="latest")
    assert "step 4 of 4: nothing is left to train" in again.log
    assert len(again.metrics()) == 4
