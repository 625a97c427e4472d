"""Weights of turns and records: a weighted mean over targets, however its rows are dealt, packed and resumed."""

import random

import pytest
import torch
from torch.nn import functional as F

from fm9g.data.stream.document import Document
from fm9g.data.stream.lane import Piece, Row
from fm9g.data.stream.loader import step_batch
from fm9g.data.stream.strip import IGNORED
from fm9g.training.step import count_step, step_losses
from tests.support.apps import run_app
from tests.support.chats import conversation
from tests.support.outputs import Output, copy_output
from tests.support.places import index
from tests.support.runs_here import train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")
OPTIONS = {"max_length": 128, "batch_size": 2, "grad_accum": 2, "save_iters": 2}


def records(weigh, count=60):
    """Conversations whose answers, and which themselves, have the weights that `weigh` gives."""
    found = [conversation(1 + number % 2, number) | {"id": number, "weight": weigh()} for number in range(count)]
    for record in found:
        for turn in record["conversations"][1::2]:
            turn["weight"] = weigh()
    return found


@pytest.fixture(scope="module")
def weighted(place, tmp_path_factory):
    """A mixture of two datasets of such conversations, one of which has no weights."""
    folder, entries, chance = tmp_path_factory.mktemp("weighted"), [], random.Random(4)
    for name, weigh in (("some", lambda: chance.choice([0.1, 0.5, 1, 2.5])), ("none", lambda: None)):
        path = index(folder / name, records(weigh))
        entry = {"path": str(path), "task_name": name, "abs_weight": 1, "format": "chat", "template": "belle"}
        entries.append(entry | {"oversize_rule": "head"})
    return place.write_mixture("weighted", entries)


def losses_by_hand(run, batch):
    """(losses with gradient, weights) of all places of a step."""
    losses, weights = [], []
    for strip in batch.strips:
        logits = run.learner.model(strip.tokens, run.learner.model.context(strip.lengths))
        losses.append(F.cross_entropy(logits, strip.targets.long(), ignore_index=IGNORED, reduction="none"))
        weights.append((strip.targets != IGNORED).float() if strip.weights is None else strip.weights)
    return torch.cat(losses), torch.cat(weights)


def gradients(run):
    return {name: param.grad.clone() for name, param in run.learner.model.named_parameters()}


def test_the_loss_is_the_weighted_mean_over_the_targets_of_all_micro_steps(place, tmp_path, weighted):
    with training_here(place, tmp_path, **OPTIONS, dataset_config=weighted) as run:
        batch, counts, _ = next(run.stream.steps(run.learner.units))
        losses, weights = losses_by_hand(run, batch)
        assert len(set(weights.tolist())) > 4
        mean = (losses * weights).sum() / weights.sum()
        run.learner.manager.zero_grad()
        mean.backward()
        expected = gradients(run)
        run.learner.manager.zero_grad()
        found = step_losses(run.learner.model, run.learner.objective, batch, counts, run.learner.manager.backward)
        assert found.loss == pytest.approx(mean.item(), rel=1e-6)
        assert counts.all_units == pytest.approx(weights.sum().item(), rel=1e-6)
        for name, gradient in gradients(run).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_a_packed_row_and_a_row_for_each_document_give_the_same_gradient(place, tmp_path, weighted):
    with training_here(place, tmp_path, **OPTIONS, dataset_config=weighted) as run:
        corpora, found = run.stream.corpora, []
        documents = [(task, corpora[task].document(number)) for task in (0, 1) for number in range(4)]
        pieces = [Piece(task, made, 0, made.places) for task, made in documents if isinstance(made, Document)]
        length = sum(piece.places for piece in pieces)
        for rows in ([Row(pieces)], [Row([piece]) for piece in pieces]):
            batch = step_batch(0, rows, corpora, 1, length)
            counts = count_step(batch, run.learner.units(batch), False, 0.0)
            run.learner.manager.zero_grad()
            losses = step_losses(run.learner.model, run.learner.objective, batch, counts, run.learner.manager.backward)
            found.append((losses, gradients(run)))
    (packed, of_packed), (padded, of_padded) = found
    assert len(pieces) > 6 and packed.by_task == pytest.approx(padded.by_task, rel=1e-6)
    for name, gradient in of_packed.items():
        torch.testing.assert_close(gradient, of_padded[name], rtol=1e-4, atol=1e-7)


def same_weights(one, other, step=4):
    """To 1e-6 of the largest of a parameter."""
    for name, value in one.weights(step).items():
        assert (other.weights(step)[name] - value).abs().max() < 1e-6 * max(1.0, value.abs().max()), name


def test_accumulation_and_ranks_make_no_difference(place, tmp_path, weighted):
    settings = OPTIONS | {"dataset_config": weighted, "lr": 1e-3}
    whole = train_here(place, tmp_path / "whole", **settings)
    many = train_here(place, tmp_path / "many", **settings | {"batch_size": 1, "grad_accum": 4})
    same_weights(whole, many)
    two = run_app(place.words(tmp_path / "two", **settings | {"n_gpus": 2, "grad_accum": 1}), tmp_path)
    assert two.returncode == 0, two.output
    same_weights(whole, Output(tmp_path / "two"))
    assert Output(tmp_path / "two").losses() == pytest.approx(whole.losses(), rel=1e-5)


def test_a_resumed_run_goes_on_bit_for_bit(place, tmp_path, weighted):
    settings = OPTIONS | {"dataset_config": weighted}
    whole = train_here(place, tmp_path / "whole", **settings)
    own = copy_output(whole, tmp_path / "own")
    train_here(place, own.root, **settings, resume_ckpt=2)
    assert own.learned() == whole.learned()


def test_only_the_ratio_of_weights_matters_and_ones_are_none(place, tmp_path):
    found = {}
    for weight in (None, 1, 0.5, 3):
        folder = tmp_path / str(weight)
        folder.mkdir()
        path = index(folder / "chat", records(lambda weight=weight: weight))
        entry = {"path": str(path), "task_name": "chat", "abs_weight": 1, "format": "chat", "template": "belle"}
        mixed = place.write_mixture(f"alike-{weight}", [entry | {"oversize_rule": "head"}])
        found[weight] = train_here(place, folder / "out", **OPTIONS, lr=1e-3, dataset_config=mixed)
    assert found[1].learned() == found[None].learned()
    for weight in (0.5, 3):
        assert found[weight].losses() == pytest.approx(found[None].losses(), rel=1e-6)
        same_weights(found[None], found[weight])


def test_an_evaluation_weighs_alike(place, tmp_path, weighted):
    settings = OPTIONS | {"eval_dataset": weighted, "train_iters": 1, "warmup_iters": 0, "lr": 0}
    with training_here(place, tmp_path / "by_hand", **settings) as run:
        sums, hits = torch.zeros(2, dtype=torch.float64), 0.0
        for batch, _ in run.evaluation._steps(lambda: False):
            losses, weights = losses_by_hand(run, batch)
            sums += torch.stack([(losses * weights).sum(), weights.sum()]).detach().double()
            for strip in batch.strips:
                logits = run.learner.model(strip.tokens, run.learner.model.context(strip.lengths))
                weight = (strip.targets != IGNORED).float() if strip.weights is None else strip.weights
                hits += ((logits.argmax(1) == strip.targets) * weight).sum().item()
    found = train_here(place, tmp_path / "out", **settings).metrics()[0]
    assert found["eval_loss"] == pytest.approx((sums[0] / sums[1]).item(), rel=1e-5)
    assert found["eval_seen"]["accuracy"] == pytest.approx(hits / sums[1].item(), rel=1e-5)


def test_a_record_of_weight_0_is_named_and_counted(place, tmp_path):
    given = [conversation(1, number) for number in range(40)]
    given[7]["weight"] = 0
    entry = {"path": str(index(tmp_path / "chat", given)), "abs_weight": 1, "task_name": "chat", "format": "chat"}
    mixed = place.write_mixture("nothing", [{**entry, "template": "belle", "oversize_rule": "head"}])
    run = train_here(place, tmp_path / "out", **OPTIONS | {"train_iters": 12}, dataset_config=mixed)
    assert "record 7 (line 8): has the weight 0, so that nothing of it is learned" in run.log
