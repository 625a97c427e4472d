"""The loss: per valid token over all micro-steps of a step, for all and for each task."""

import pytest
import torch
from torch.nn import functional as F

from fm9g.data.stream.strip import IGNORED
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.runtime import bmt
from fm9g.training.step import step_losses
from tests.support.places import index
from tests.support.runs_here import train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")


def losses_by_hand(run, batch):
    """[places of the step] losses with gradient, and the task of each place."""
    losses, tasks = [], []
    for strip in batch.strips:
        logits = run.learner.model(strip.tokens, run.learner.model.context(strip.lengths))
        losses.append(F.cross_entropy(logits, strip.targets.long(), ignore_index=IGNORED, reduction="none"))
        tasks += [task for task, length in zip(strip.tasks, strip.lengths, strict=True) for _ in range(length)]
    return torch.cat(losses), torch.tensor(tasks)


def gradients(run):
    return {name: param.grad.clone() for name, param in run.learner.model.named_parameters()}


@pytest.mark.parametrize(("batch_size", "grad_accum"), [(1, 4), (4, 1), (2, 2)])
def test_the_loss_is_a_mean_over_the_valid_tokens_of_all_micro_steps(place, tmp_path, batch_size, grad_accum):
    with training_here(place, tmp_path, batch_size=batch_size, grad_accum=grad_accum) as run:
        batch, counts, _ = next(run.stream.steps(run.learner.units))
        losses, tasks = losses_by_hand(run, batch)
        valid = torch.cat([strip.targets for strip in batch.strips]) != IGNORED
        assert 0 < valid.sum() < len(valid)  # questions and padding are there
        mean = losses.sum() / valid.sum()
        run.learner.manager.zero_grad()
        mean.backward()
        expected = gradients(run)
        run.learner.manager.zero_grad()
        found = step_losses(run.learner.model, run.learner.objective, batch, counts, run.learner.manager.backward)
        assert found.loss == pytest.approx(mean.item(), rel=1e-6)
        for task in (0, 1):
            of_task = losses[valid & (tasks == task)].mean().item()
            assert found.by_task[task] == pytest.approx(of_task, rel=1e-6)
        for name, gradient in gradients(run).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_accumulated_micro_steps_equal_one_big_batch(place, tmp_path):
    one = train_here(place, tmp_path / "one", batch_size=4, grad_accum=1)
    many = train_here(place, tmp_path / "many", batch_size=1, grad_accum=4)
    assert many.losses() == pytest.approx(one.losses(), rel=1e-5)
    assert [line["grad_norm"] for line in many.metrics()] == pytest.approx(
        [line["grad_norm"] for line in one.metrics()], rel=1e-4
    )
    assert many.progress(4)["stream_sha256"] == one.progress(4)["stream_sha256"]


def test_a_task_without_tokens_in_a_step_has_no_loss_there(place, tmp_path):
    entries = [{"path": str(place.root / "prose"), "abs_weight": 0.99}]
    entries.append({"path": str(place.root / "questions"), "abs_weight": 0.01, "task_name": "q"})
    mixture = place.write_mixture("rare", [{"task_name": "p", **entry} for entry in entries])
    lines = train_here(place, tmp_path, dataset_config=mixture, grad_accum=1, train_iters=8).metrics()
    alone = [line for line in lines if "q" not in line["task_loss"]]
    assert alone
    assert all(line["task_loss"] == {"p": pytest.approx(line["loss"])} for line in alone)
    assert all(set(line["task_tokens"]) == {"p", "q"} for line in lines)


def test_a_dataset_of_weight_zero_takes_no_part(place, tmp_path):
    entries = [{"path": "prose", "abs_weight": 1}, {"path": "questions", "abs_weight": 0}]
    lines = train_here(place, tmp_path, dataset_config=place.write_mixture("zero", entries)).metrics()
    assert all(set(line["task_loss"]) == {"prose"} for line in lines)
    assert lines[-1]["task_tokens"]["questions"] == 0


@pytest.fixture
def one_long_document(place, tmp_path):
    """A single document of three rows: its lane comes every 16 steps, and the steps between are empty."""
    tokenizer = load_tokenizer(place.tokenizer)
    text = tokenizer.decode(tokenizer.encode("learns to read " * 100)[:150])
    index(tmp_path / "long", [{"input": "", "output": text}])
    return place.write_mixture("long", [{"path": str(tmp_path / "long"), "abs_weight": 1, "allow_repeat": False}])


def test_a_step_without_tokens_changes_nothing_and_the_run_goes_on(place, tmp_path, one_long_document):
    options = {"dataset_config": one_long_document, "train_iters": 60, "stop_when_end": 1, "save_iters": 5}
    run = train_here(place, tmp_path / "run", **options)
    lines = run.metrics()
    filled = [line["iteration"] for line in lines if line["loss"] is not None]
    assert filled == [1, 17, 33]
    assert len(lines) == 33  # and then the data is exhausted
    assert "the mixture is exhausted after 33 of 60 steps" in run.log
    empty = lines[5]
    assert (empty["grad_norm"], empty["task_loss"], empty["tokens"]) == (0.0, {}, lines[0]["tokens"])
    before, after = run.weights(5), run.weights(15)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "no tokens" in run.log


def test_ranks_do_not_divide_the_gradient_again(place, tmp_path):
    """BMTrain's manager divides by the number of ranks unless told otherwise."""
    with training_here(place, tmp_path) as run:
        assert run.learner.manager.grad_scale == 1
        assert isinstance(run.learner.optimizer, bmt.optim.AdamOptimizer)
