"""The loss of routers: transformers' own, of the tokens that count, in training alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.data.stream.strip import IGNORED, PADDING_TASK, Strip
from fm9g.model.decoder import Decoder
from fm9g.objectives.base import Cost
from fm9g.objectives.language_model import LanguageModel
from fm9g.training.settings import Settings
from tests.convert.helpers import gradients_of_theirs, in_their_names, save
from tests.model.pairs import config, decoder, gradients, tokens_and_targets
from tests.support.outputs import copy_output
from tests.support.places import Place
from tests.support.runs_here import train_here

pytestmark = pytest.mark.usefixtures("single_rank")

LENGTHS, PADDED = [9, 3, 14], 5
SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": {"num_experts": 5, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 16},
}
MIXTURE: dict[str, Any] = {"num_experts": 4, "experts_per_token": 2, "router_loss": 0.5}


def strip(padded: int = PADDED) -> Strip:
    """Documents and padding, whose tokens are no others' than some of theirs."""
    tokens, targets = (x.cpu() for x in tokens_and_targets(61, [*LENGTHS, padded] if padded else LENGTHS))
    targets[sum(LENGTHS) :] = IGNORED
    tasks = [0, 0, 0, PADDING_TASK] if padded else [0, 0, 0]
    return Strip(tokens, targets, [*LENGTHS, padded] if padded else LENGTHS, tasks, [0] * len(tasks))


def cost(model: Decoder, of: Strip) -> tuple[Cost, float]:
    """A strip's cost and its units."""
    objective = LanguageModel(model, Settings())
    return objective.cost(of, model.context(of.lengths)), sum(objective.units(of))


def batch(of: Strip) -> dict[str, Tensor]:
    """The same documents as transformers has them: a row each, filled up on the right."""
    documents = of.tokens[: sum(LENGTHS)].split(LENGTHS)
    ids = torch.nn.utils.rnn.pad_sequence(list(documents), batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(length).long() for length in LENGTHS], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", FAMILIES)
def test_loss_and_gradients_are_transformers(kind: str, tmp_path: Path) -> None:
    """Cross-entropy and what the routers add, of documents of several lengths beside padding."""
    torch.manual_seed(0)
    settings = {**SHAPE, **FAMILIES[kind], "router_aux_loss_coef": 0.3, "output_router_logits": True}
    theirs = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    save(theirs, tmp_path / "source")
    ours = Decoder(huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt"))
    ours.load_state_dict(torch.load(tmp_path / "7b.pt", weights_only=True))
    of = strip()
    targets = [torch.cat([torch.tensor([IGNORED]), row[:-1]]) for row in of.targets[: sum(LENGTHS)].split(LENGTHS)]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    expected = theirs(**batch(of), labels=labels)
    found, units = cost(ours, of)
    seen, count = found.seen["router_loss"]
    assert (seen / count).item() == pytest.approx(expected.aux_loss.item(), rel=1e-6)
    assert (found.total / units).item() == pytest.approx(expected.loss.item(), rel=1e-6)
    expected.loss.backward()
    (found.total / units).backward()
    mine, reference = in_their_names(gradients(ours), ours.config, theirs), gradients_of_theirs(theirs)
    assert mine.keys() == reference.keys()
    for name, gradient in mine.items():  # float32, in another order of sums
        assert (gradient - reference[name]).abs().max() <= 1e-5 * reference[name].abs().max(), name


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_routers_own_gradients_are_transformers(kind: str, tmp_path: Path) -> None:
    """Of the routers' loss alone, which cross-entropy would hide."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **FAMILIES[kind], output_router_logits=True)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    save(theirs, tmp_path / "source")
    ours = Decoder(huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt"))
    ours.load_state_dict(torch.load(tmp_path / "7b.pt", weights_only=True))
    of = strip()
    theirs(**batch(of)).aux_loss.backward()
    seen, count = cost(ours, of)[0].seen["router_loss"]
    (seen / count).backward()
    found = [value.grad.view(value._original_shape) for name, value in ours.named_parameters() if ".router." in name]
    reference = [value.grad for name, value in theirs.named_parameters() if name.endswith(".gate.weight")]
    assert len(reference) == 3
    for gradient, expected in zip(found, reference, strict=True):
        assert expected.abs().max() > 1e-2
        assert (gradient - expected).abs().max() < 1e-6


def test_padding_counts_nothing() -> None:
    model = decoder(config(**MIXTURE))
    (with_padding, units), (without, same_units) = (cost(model, strip(padded)) for padded in (PADDED, 0))
    assert units == same_units == float(with_padding.seen["router_loss"][1])
    assert with_padding.total.item() == pytest.approx(without.total.item(), rel=1e-6)
    nothing = Strip(torch.zeros(6, dtype=torch.int64), torch.full((6,), IGNORED), [6], [PADDING_TASK], [0])
    found, _ = cost(model, nothing)
    assert found.total.item() == 0
    assert [x.item() for x in found.seen["router_loss"]] == [0, 0]


def test_the_coefficient_is_for_training_alone() -> None:
    found, units = cost(decoder(config(**MIXTURE)), strip())
    without, _ = cost(decoder(config(**MIXTURE | {"router_loss": 0.0})), strip())
    assert torch.equal(found.losses, without.losses)  # of pieces, who pay for their targets alone
    seen, _ = found.seen["router_loss"]
    assert without.seen["router_loss"][0].item() == seen.item()
    assert (found.total - without.total).item() == pytest.approx(0.5 * seen.item(), rel=1e-5)
    model = decoder(config(**MIXTURE))
    model.eval()
    with torch.no_grad():
        evaluated, _ = cost(model, strip())
    assert list(evaluated.seen) == ["accuracy"]
    assert evaluated.total.item() == pytest.approx(without.total.item(), rel=1e-6)
    assert units > 0


def test_a_weighted_strip_has_its_weights_for_units() -> None:
    of = strip()
    weights = torch.rand(len(of.tokens)) * (of.targets != IGNORED)
    found, units = cost(decoder(config(**MIXTURE)), dataclasses.replace(of, weights=weights))
    assert float(found.seen["router_loss"][1]) == pytest.approx(units, rel=1e-6)


def test_a_run_tells_it_and_goes_on_with_it(place: Place, tmp_path: Path) -> None:
    """And what a run reports as its loss is the targets'."""
    model = place.write_model("experts", **MIXTURE)
    settings = {"config": model, "save_iters": 2, "use_checkpoint": 1}
    whole = train_here(place, tmp_path / "whole", **settings)
    first = whole.metrics()[0]
    assert 2 <= first["seen"]["router_loss"] < 3
    free = place.write_model("free", **MIXTURE | {"router_loss": 0.0})
    plain = train_here(place, tmp_path / "plain", **settings | {"config": free})
    assert plain.metrics()[0]["loss"] == first["loss"]
    assert plain.metrics()[0]["grad_norm"] != first["grad_norm"]
    own = copy_output(whole, tmp_path / "own")
    train_here(place, own.root, **settings, resume_ckpt=2)
    assert own.learned() == whole.learned()
