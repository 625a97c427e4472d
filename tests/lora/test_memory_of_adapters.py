"""What a step leaves in memory beside the weights, summed over all tensors that are alive: gradients and moments."""

from __future__ import annotations

import gc
import itertools

import pytest
import torch

from fm9g.model.config import ModelConfig
from fm9g.model.parameters import parameters
from tests.support.runs_here import train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")
BYTES = 4  # of a float32


def live_bytes() -> int:
    """Of the storages of all tensors and all gradients that are alive, each counted once."""
    gc.collect()
    alive = [value for value in gc.get_objects() if issubclass(type(value), (torch.Tensor, torch.TypedStorage))]
    gradients = [value.grad for value in alive if isinstance(value, torch.Tensor) and value.is_leaf]
    found = {}
    for value in itertools.chain(alive, filter(lambda gradient: gradient is not None, gradients)):
        storage = value._untyped_storage if isinstance(value, torch.TypedStorage) else value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


@pytest.fixture(scope="module")
def options(place, tmp_path_factory, single_rank):
    """A model that is much larger than the adapters and than what a batch takes, and its weights."""
    wide = {"config": place.write_model("wide", dim_model=256, dim_ff=512), "train_iters": 1, "warmup_iters": 0}
    run = train_here(place, tmp_path_factory.mktemp("base"), **wide)
    return {**wide, "pretrained_model": run.checkpoints / "1/fm9g_live_checkpoint-1.pt"}


def beside_the_weights(place, folder, **changes):
    """Bytes of the weights that are trained; bytes beside all weights, with the gradients there and after the step."""
    nothing, found = live_bytes(), []
    with training_here(place, folder, **changes) as loop:
        weights = list(loop.learner.model.parameters())
        held = sum(value.numel() for value in weights) * BYTES
        trained = sum(value.numel() for value in weights if value.requires_grad) * BYTES
        step = next(iter(loop.stream.steps(loop.learner.units)))
        loop.learner.step(step.batch, step.counts, lambda: found.append(live_bytes() - nothing - held))
        found.append(live_bytes() - nothing - held)
    return trained, *found


@pytest.mark.parametrize("use_checkpoint", [0, 1])
def test_the_base_has_no_gradients_and_no_moments_in_memory(place, options, tmp_path, use_checkpoint):
    options = {**options, "use_checkpoint": use_checkpoint}
    base = sum(p.numel for p in parameters(ModelConfig.from_json(options["config"]))) * BYTES
    trained, gradients, all_states = beside_the_weights(place, tmp_path / "full", **options)
    assert trained == base
    assert gradients > 0.99 * base and all_states > 2.99 * base  # so that the sums below see them
    adapters, gradients, all_states = beside_the_weights(place, tmp_path / "lora", **options, lora=1, lora_r=4)
    assert gradients < 1.5 * adapters and all_states < 3.5 * adapters
    assert all_states < 0.1 * base
