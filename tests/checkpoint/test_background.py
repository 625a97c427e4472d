"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading

import pytest

from fm9g.checkpoint import summed_file
from fm9g.checkpoint.writer import CheckpointWriter
from fm9g.training.evaluation import Evaluation
from fm9g.training.learner import Learner
from fm9g.training.metrics import Evaluated
from tests.checkpoint.test_whole import full_disk
from tests.support.apps import run_app
from tests.support.outputs import Output
from tests.support.runs_here import refused_here, train_here

pytestmark = pytest.mark.usefixtures("single_rank")

LAST = 4
SAVED = {"train_iters": LAST, "save_iters": 1}


def assert_same_files(found, expected, but=()):
    for step in set(range(1, LAST + 1)) - set(but):
        ours, theirs = found.checkpoints / str(step), expected.checkpoints / str(step)
        names = {path.name for path in theirs.iterdir()}
        assert {path.name for path in ours.iterdir()} == names
        for name in names - {"state.json", "manifest.json"}:  # which have the setting in them
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), (step, name)
        assert found.progress(step) == expected.progress(step)


@pytest.fixture(scope="module")
def waited(place, tmp_path_factory, single_rank):
    """A run that waits for each of its checkpoints."""
    return train_here(place, tmp_path_factory.mktemp("waited"), **SAVED)


@pytest.fixture
def held(monkeypatch):
    """Let each checkpoint be written when the step after it has been made; the steps in the order they are written."""
    step, write = Learner.step, CheckpointWriter.write
    made, changed, written = [0], threading.Condition(), []

    def noted(*args):
        learned = step(*args)
        with changed:
            made[0] += 1
            changed.notify_all()
        return learned

    def waiting(writer, contents):
        with changed:
            assert changed.wait_for(lambda: made[0] > writer.step or made[0] == LAST, 60)
            written.append(writer.step)
        return write(writer, contents)

    monkeypatch.setattr(Learner, "step", noted)
    monkeypatch.setattr(CheckpointWriter, "write", waiting)
    return written


def test_they_are_of_the_step_at_which_they_were_begun(place, waited, tmp_path, held):
    """Weights, moments, data and random generators are others by the time that they are written."""
    run = train_here(place, tmp_path, **SAVED, async_save=1)
    assert held == [1, 2, 3, 4]
    assert run.learned() == waited.learned()
    assert_same_files(run, waited)
    assert run.latest() == LAST


def test_they_are_resumed_like_others(place, waited, tmp_path):
    train_here(place, tmp_path, **SAVED, async_save=1, stop_when_end=1)
    again = train_here(place, tmp_path, **SAVED, async_save=1, resume_ckpt="2")
    assert again.learned() == waited.learned()
    assert_same_files(again, waited)


def test_of_several_ranks(place, tmp_path):
    settings = {**SAVED, "n_gpus": 2, "batch_size": 1}
    outputs = []
    for background in (0, 1):
        output = Output(tmp_path / str(background))
        result = run_app(place.words(output.root, **settings, async_save=background), tmp_path)
        assert result.returncode == 0, result.output
        outputs.append(output)
    assert outputs[1].learned() == outputs[0].learned()
    assert_same_files(outputs[1], outputs[0])


def test_one_that_cannot_be_written_is_told_and_tried_again(place, waited, tmp_path, monkeypatch, held):
    full_disk(monkeypatch, summed_file, 2)
    run = train_here(place, tmp_path, **SAVED, async_save=1)
    lines = run.log.splitlines()
    told = next(number for number, line in enumerate(lines) if "warning: checkpoint 2 could not be saved" in line)
    assert any("iter 3/4" in line for line in lines[told - 2 : told + 2])
    assert run.steps() == [1, 3, 4]
    assert_same_files(run, waited, but=[2])


def test_it_ends_the_run_where_that_is_asked_for(place, tmp_path, monkeypatch):
    full_disk(monkeypatch, summed_file, 2)
    message = refused_here(place, tmp_path, **SAVED, async_save=1, save_failure="stop")
    assert "checkpoint 2 could not be saved: rank 0: [Errno 28] No space left" in message


def test_the_last_one_must_be_there_when_the_run_ends(place, tmp_path, monkeypatch):
    full_disk(monkeypatch, summed_file, LAST)
    assert f"checkpoint {LAST} could not be saved" in refused_here(place, tmp_path, **SAVED, async_save=1)


@pytest.mark.parametrize("background", [0, 1])
def test_one_that_could_not_be_written_is_not_the_best(place, tmp_path, monkeypatch, background):
    losses = [9, 3, 5, 4, 6]
    monkeypatch.setattr(Evaluation, "run", lambda self, stops: Evaluated(losses.pop(0), {}, {}, 1, 0, 0.0, True))
    full_disk(monkeypatch, summed_file, 1)
    options = {"eval_dataset": place.mixture, "allow_overlap": 1, "eval_interval": 1, "save_total_limit": 1}
    run = train_here(place, tmp_path, **SAVED, **options, async_save=background)
    assert (run.checkpoints / "best").read_text() == "3\n"
    assert run.steps() == [3, 4]
