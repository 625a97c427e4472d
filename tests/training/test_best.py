"""The best checkpoint by held-out loss, early stopping, and how many checkpoints are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fm9g.errors import UserError
from fm9g.training.best import Best
from fm9g.training.evaluation import Evaluation
from fm9g.training.metrics import Evaluated
from tests.support.runs_here import train_here


def test_the_best_is_the_lowest_of_finite_losses():
    best = Best()
    assert [best.add(step, loss) for step, loss in enumerate((3.0, 2.0, 2.0, math.nan, 1.5))] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert (best.loss, best.since) == (1.5, 0)
    assert not best.add(4, 1.0)  # the same step again, when a run goes on
    assert best.loss == 1.5


def test_the_best_checkpoint_is_of_a_step_that_was_evaluated():
    best = Best()
    for step, loss in ((2, 2.0), (4, 1.0), (6, 1.5)):
        best.add(step, loss)
        if step != 4:
            best.save(step)
    best.save(7)
    assert (best.loss, best.saved_loss, best.saved_step) == (1.0, 1.5, 6)


@pytest.fixture
def evaluated(monkeypatch):
    """Have evaluations find these losses, one after another."""

    def give(*losses):
        left = list(losses)

        def run(self, stops):
            if not left:
                raise UserError("killed")
            return Evaluated(left.pop(0), {}, {}, 1, 0, 0.0, True)

        monkeypatch.setattr(Evaluation, "run", run)

    return give


@pytest.mark.usefixtures("single_rank")
class TestRuns:
    """Runs that are evaluated at every second step."""

    @pytest.fixture
    def options(self, place):
        entry = {**json.loads(place.mixture.read_text())[0], "task_name": "held"}
        held_out = place.write_mixture("held", [entry])
        return {"eval_dataset": held_out, "allow_overlap": 1, "eval_interval": 2, "train_iters": 8, "save_iters": 2}

    def test_the_best_is_named_beside_the_latest(self, place, options, tmp_path, evaluated):
        evaluated(9, 5, 3, 4, 6)
        run = train_here(place, tmp_path, **options)
        assert (run.checkpoints / "best").read_text() == "4\n" and run.latest() == 8
        assert run.state(8)["best"]["saved_step"] == 4

    def test_old_checkpoints_go_but_never_the_best(self, place, options, tmp_path, evaluated):
        evaluated(9, 3, 5, 4, 6)
        run = train_here(place, tmp_path, **options, save_total_limit=1)
        assert run.steps() == [2, 8]
        assert "deleted checkpoint 6: keep_last is 1" in run.log
        assert not list(run.checkpoints.glob(".*.deleted"))

    def test_without_evaluations_the_newest_are_kept(self, place, tmp_path):
        run = train_here(place, tmp_path, train_iters=8, save_iters=2, save_total_limit=2)
        assert run.steps() == [6, 8] and not (run.checkpoints / "best").exists()

    def test_what_a_kill_left_of_a_deleted_one_is_removed(self, place, tmp_path):
        run = train_here(place, tmp_path, train_iters=4, save_iters=2, save_total_limit=2)
        (run.checkpoints / "2").rename(run.checkpoints / ".2.deleted")
        again = train_here(place, tmp_path, train_iters=6, save_iters=2, save_total_limit=2, resume_ckpt="latest")
        assert again.steps() == [4, 6] and not (run.checkpoints / ".2.deleted").exists()

    def test_the_best_is_saved_when_it_is_found(self, place, options, tmp_path, evaluated):
        evaluated(9, 5, 3, 4, 6)
        run = train_here(place, tmp_path, **options | {"save_iters": 100}, save_best=1)
        assert run.steps() == [2, 4, 8] and (run.checkpoints / "best").read_text() == "4\n"

    def test_a_run_ends_when_it_gets_no_better(self, place, options, tmp_path, evaluated):
        evaluated(9, 5, 6, 7, 1)
        run = train_here(place, tmp_path, **options | {"train_iters": 20}, early_stop=2)
        assert run.latest() == 6 and len(run.losses()) == 6
        assert "early_stop: 2 evaluations without a held-out loss below 5.0000" in run.log
        evaluated(7)
        again = train_here(place, tmp_path, **options | {"train_iters": 20}, early_stop=2, resume_ckpt="latest")
        assert len(again.losses()) == 6 and "early_stop: 2 evaluations" in again.log

    def test_a_resumed_run_counts_on(self, place, options, tmp_path, evaluated):
        evaluated(9, 5, 6)
        train_here(place, tmp_path, **options | {"train_iters": 4}, early_stop=2)
        evaluated(6, 7)
        run = train_here(place, tmp_path, **options | {"train_iters": 20}, early_stop=2, resume_ckpt="latest")
        assert run.latest() == 6 and (run.checkpoints / "best").read_text() == "2\n"

    def test_a_stop_between_evaluations_changes_nothing(self, place, options, tmp_path, evaluated):
        """What a resumed run finds where it goes on is no evaluation of the straight run."""
        options |= {"eval_interval": 4, "save_iters": 6, "train_iters": 20, "early_stop": 3}
        evaluated(9, 5, 6, 7, 4, 8)
        straight = train_here(place, tmp_path / "straight", **options)
        evaluated(9, 5)
        with pytest.raises(UserError, match="killed"):
            train_here(place, tmp_path / "killed", **options)
        evaluated(5.5, 6, 7, 4, 8)
        resumed = train_here(place, tmp_path / "killed", **options, resume_ckpt="latest")
        assert resumed.latest() == straight.latest() == 20
        assert resumed.state(20)["best"] == straight.state(20)["best"]

    def test_what_is_told_of_the_best_is_of_one_checkpoint(self, place, options, tmp_path, evaluated):
        evaluated(9, 5, 3, 4, 6)
        run = train_here(place, tmp_path, **options | {"save_iters": 3})
        state = json.loads(next(tmp_path.rglob("trainer_state.json")).read_text())
        assert (state["best_metric"], Path(state["best_model_checkpoint"]).name) == (4.0, "6")
        assert run.state(6)["best"]["loss"] == 3.0

    def test_results_are_written_where_a_kill_came_before_them(self, place, options, tmp_path, evaluated):
        evaluated(9, 5, 6, 7)
        options |= {"train_iters": 20, "early_stop": 2}
        train_here(place, tmp_path, **options)
        results = next(tmp_path.rglob("trainer_state.json"))
        results.unlink()
        evaluated(7)
        train_here(place, tmp_path, **options, resume_ckpt="latest")
        assert results.exists()
