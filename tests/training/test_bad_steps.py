"""Steps that are not learned from: skipped, counted and told, and the end of a run where there are too many."""

import json
import math

import pytest
import torch

from fm9g.errors import UserError
from fm9g.training.bad_steps import FEWEST, WINDOW, BadSteps
from tests.support.outputs import Output, copy_output
from tests.support.runs_here import train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")


def run_with(place, output, spoiled, what="loss", **changes):
    """A run in which at these iterations the loss, or the gradient, is not finite."""
    with training_here(place, output, **changes) as loop:
        manager, objective = loop.learner.manager, loop.learner.objective
        cost, clip = objective.cost, manager.clip_grad_norm

        def is_spoiled():
            return loop.stream.progress.step + 1 in spoiled

        def bad_cost(strip, context):
            found = cost(strip, context)
            return (
                found._replace(total=found.total * math.nan, losses=found.losses * math.nan) if is_spoiled() else found
            )

        def bad_norm(*arguments):
            return clip(*arguments) * (math.inf if is_spoiled() else 1)

        if what == "loss":
            objective.cost = bad_cost
        else:
            manager.clip_grad_norm = bad_norm
        loop.run()
    return Output(output)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_bad_step_updates_nothing_and_is_counted(place, tmp_path, what):
    run = run_with(place, tmp_path / "bad", {3}, what, train_iters=3, save_iters=1)
    before, after = run.weights(2), run.weights(3)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert run.state(3)["bad_steps"]["total"] == 1
    lines = run.metrics()
    assert [(line["skipped"], line["bad_steps"]) for line in lines] == [("", 0), ("", 0), ("bad step", 1)]


def test_its_documents_are_told(place, tmp_path, capsys):
    run = run_with(place, tmp_path, {2}, train_iters=3)
    (line,) = [json.loads(line) for line in run.metrics_file.with_name("bad_steps.jsonl").read_text().splitlines()]
    assert line["iteration"] == 2
    assert line["fault"].startswith("loss nan, gradient norm")
    assert set(line["documents"]) <= {"prose", "questions"}
    assert all(0 <= record < 120 for record in line["documents"]["prose"])


def test_after_a_bad_step_the_run_goes_on_as_when_its_batch_is_jumped_over(place, tmp_path):
    """Neither AdamW's moments nor its count of steps have seen it."""
    bad = run_with(place, tmp_path / "bad", {3}, train_iters=6)
    jumped = train_here(place, tmp_path / "jumped", train_iters=6, skip_iters="3")
    assert bad.losses()[3:] == jumped.losses()[3:]
    assert jumped.metrics()[2]["loss"] is None
    assert "skipped (skip_iters)" in jumped.log


def test_so_many_in_a_row_end_the_run_and_name_the_last_good_checkpoint(place, tmp_path):
    with pytest.raises(UserError) as error:
        run_with(place, tmp_path, {2, 5, 6, 7}, train_iters=9, save_iters=1, max_bad_steps=3)
    assert "iteration 7: loss nan" in str(error.value)
    assert "(3 bad steps in a row)" in str(error.value)
    assert f"resume the last checkpoint ({tmp_path / 'checkpoints/u/4'})" in str(error.value)
    assert Output(tmp_path).steps() == [1, 3, 4]  # that of a bad step is put off: step 3 has it


def test_a_resumed_run_counts_on(place, tmp_path):
    whole = run_with(place, tmp_path / "whole", {3, 4}, train_iters=6, save_iters=2)
    half = run_with(place, tmp_path / "half", {3, 4}, train_iters=5, save_iters=1)
    part = copy_output(half, tmp_path / "part")
    for step in (1, 2):
        assert (part.checkpoints / str(step)).is_dir()
    resumed = run_with(place, part.root, {3, 4}, train_iters=6, save_iters=2, resume_ckpt=2)
    assert resumed.state(6)["bad_steps"] == whole.state(6)["bad_steps"]


def test_an_outlier_is_a_bad_step():
    steps, sigma = BadSteps(), 3.0
    for i in range(FEWEST):
        assert steps.judge(2.0 + 0.01 * (i % 2), 1.0 + 0.1 * (i % 2), sigma) == ""
    assert steps.judge(1.0, 0.1, sigma) == ""  # far below is no harm
    assert "loss 9, which was 1.957 on average over the last 21 steps" in steps.judge(9.0, 1.0, sigma)
    assert "gradient norm 50" in steps.judge(2.0, 50.0, sigma)
    assert (steps.total, steps.in_a_row) == (2, 2)
    assert steps.judge(2.0, 1.0, sigma) == ""
    assert steps.in_a_row == 0
    assert len(steps.losses) == FEWEST + 2  # without the outliers


def test_the_window_moves_on():
    steps = BadSteps()
    for _ in range(WINDOW + 7):
        steps.judge(1.0, 1.0, 5.0)
    assert len(steps.losses) == len(steps.norms) == WINDOW


def test_without_outlier_sigma_nothing_finite_is_bad():
    steps = BadSteps()
    assert not any(steps.judge(10.0**i, 1.0, None) for i in range(30))
    assert steps.losses == []
