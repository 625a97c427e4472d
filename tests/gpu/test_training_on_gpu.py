"""Training on a GPU: every backend that works there, from the command line to a checkpoint and on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from fm9g.runtime.backend import bmtrain_folder, load_extension, probe_kernels
from tests.support.apps import run_app
from tests.support.outputs import Output
from tests.support.places import Place
from tests.support.ranks import run_ranks

PROGRAM = """
import json, sys, torch
from fm9g import runtime
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder

runtime.initialize(seed=1)
model = Decoder(
    ModelConfig(vocab_size=256, dim_model=128, num_heads=2, num_layers=2, dim_ff=256, dtype=sys.argv[1]),
    use_checkpoint=sys.argv[2] == "recompute",
)
generator = torch.Generator().manual_seed(0)
weights = {
    name: torch.randn(tuple(p._original_shape), generator=generator).mul(0.05).add(1.0 if "norm" in name else 0.0)
    for name, p in model.named_parameters()
}
model.load_state_dict(weights)
kind = runtime.bmt.optim.AdamOffloadOptimizer if sys.argv[3] == "offload" else runtime.bmt.optim.AdamOptimizer
optimizer = kind(model.parameters(), lr=1e-3, weight_decay=0.1)
manager = runtime.bmt.optim.OptimManager(loss_scale=1024 if sys.argv[1] == "fp16" else None)
manager.add_optimizer(optimizer)
tokens = torch.randint(0, 256, (257,), generator=generator).to(runtime.device())
context = model.context([100, 156])
losses = []
for _ in range(10):
    manager.zero_grad()
    total, _ = model.loss(tokens[:-1], tokens[1:], context)
    manager.backward(total / 256)
    manager.clip_grad_norm(optimizer.param_groups, 1.0)
    manager.step()
    losses.append(total.item() / 256)
print(json.dumps(losses))
"""


def native_works() -> bool:
    """Whether BMTrain's own extension loads and computes here, whatever backend the tests are told to use."""
    try:
        probe_kernels(load_extension(bmtrain_folder()))
    except (ImportError, OSError, RuntimeError):
        return False
    return True


BACKENDS = ["portable", *(["native"] if native_works() else [])]


def losses_on(backend: str, folder: Path, words: tuple[str, ...]) -> list[float]:
    result = run_ranks(PROGRAM, 1, folder, words, {"FM9G_BACKEND": backend}, timeout=300)
    assert result.returncode == 0, result.output
    return json.loads(result.output.splitlines()[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("place"))
    place.write_model("tiny", dtype="bf16", dropout_p=0.1)
    return place


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_stopped(backend: str, place: Place, tmp_path: Path) -> None:
    """Documents, dropout, weights and moments; rows of one block of keys, so that no sum depends on its order."""

    def train(folder: str, **changes: object) -> Output:
        words = place.words(tmp_path / folder, save_iters=2, **changes)
        result = run_app(words, tmp_path, {"FM9G_BACKEND": backend}, 300)
        assert result.returncode == 0, result.output
        assert torch.cuda.get_device_name() in result.output
        return Output(tmp_path / folder)

    whole = train("whole", train_iters=4)
    train("parts", train_iters=2)
    parts = train("parts", train_iters=4, resume_ckpt="latest")
    assert parts.learned() == whole.learned()
    assert whole.metrics()[-1]["memory_bytes"] > 0
    for name, value in whole.weights(4).items():
        assert torch.equal(value, parts.weights(4)[name]), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        # float32 products are summed in another order; half types keep 8 and 11 bits, and ten steps do not let
        # their roundings grow beyond ten times as much
        (("float32", "keep", "device"), 1e-4),
        (("bf16", "keep", "device"), 1e-2),
        (("bf16", "recompute", "offload"), 1e-2),
        (("fp16", "keep", "device"), 5e-3),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_a_backend_trains_to_the_losses_of_the_cpu(
    backend: str, words: tuple[str, ...], tolerance: float, tmp_path: Path
) -> None:
    assert losses_on(backend, tmp_path, words) == pytest.approx(losses_on("cpu", tmp_path, words), rel=tolerance)


def test_flash_attn_is_tested_where_it_is_installed() -> None:
    from tests.gpu.test_kernels_on_gpu import CASES

    assert any(name == "flash-attn" for name, *_ in CASES) == (importlib.util.find_spec("flash_attn") is not None)
