"""Tensor parallelism does not show in what is learnt, told or saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.outputs import Output
from tests.support.places import Place
from tests.support.ranks import run_ranks
from tests.support.runs_here import train_here

PROGRAMS = Path(__file__).parent / "programs"
CASES = ("heads", "grouped", "one key head", "lora", "dora", "lora and embeddings")
SHAPES = [(2, 2), (4, 2), (4, 4)]  # ranks, tp_size
STEPS = 5

several = pytest.mark.parametrize("shape", SHAPES, ids=[f"{ranks} ranks, tp {tp_size}" for ranks, tp_size in SHAPES])
each_case = pytest.mark.parametrize("case", CASES)
Runs = Callable[[int, int], Any]


def trained(folder: Path, ranks: int, tp_size: int, steps: int) -> Any:
    path = folder / f"{ranks}-{tp_size}-{steps}.pt"
    if not path.exists():
        result = run_ranks(PROGRAMS / "tensor_parallel.py", ranks, folder, args=(path, tp_size, steps), timeout=600)
        assert result.returncode == 0, result.output
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What so many ranks with a tp_size make of the same batches; each is run once."""
    folder = tmp_path_factory.mktemp("tp")
    return lambda ranks, tp_size: trained(folder, ranks, tp_size, STEPS)


def assert_alike(found: Any, alone: Any) -> None:
    """In float32 sums alone are of another order."""
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert alone["losses"][-1] < alone["losses"][0]
    assert found["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    assert found["final"].keys() == alone["final"].keys()
    for name, weight in alone["final"].items():
        torch.testing.assert_close(found["final"][name], weight, rtol=1e-4, atol=1e-4, msg=name)


@each_case
@several
def test_the_same_losses_gradients_and_weights(runs: Runs, shape: tuple[int, int], case: str) -> None:
    assert_alike(runs(*shape)[case], runs(1, 1)[case])


@each_case
@several
def test_the_same_logits_scores_and_log_probabilities(runs: Runs, shape: tuple[int, int], case: str) -> None:
    """And the gradient that the log-probabilities are given."""
    alone = runs(1, 1)[case]["told"]
    for name, told in runs(*shape)[case]["told"].items():
        torch.testing.assert_close(told, alone[name], rtol=1e-3, atol=1e-3 * float(alone[name].abs().max()), msg=name)


@pytest.mark.soak
@several
def test_the_same_losses_over_twenty_steps(tmp_path: Path, shape: tuple[int, int]) -> None:
    found, alone = (trained(tmp_path, *of, steps=20) for of in (shape, (1, 1)))
    for case in CASES:
        assert found[case]["losses"] == pytest.approx(alone[case]["losses"], rel=1e-5), case


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("float32", marks=pytest.mark.soak)])
def test_a_checkpoint_is_the_same_whoever_loads_and_saves_it(
    place: Place, single_rank: Any, tmp_path: Path, dtype: str
) -> None:
    """Bit for bit, weights and the optimizer's state, from ranks to other ranks and other groups of them, in either
    form of the weights."""
    config = place.write_model(f"four-{dtype}", num_heads=4, num_kv_heads=2, dim_ff=44, dtype=dtype)
    settings = {"config": config, "lr": 1e-3, "train_iters": 2}
    before: Output = train_here(place, tmp_path / "0", **settings)
    first = before
    for number, (ranks, tp_size) in enumerate([(4, 2), (2, 1), (4, 4), (1, 1)], 1):
        target = Output(tmp_path / str(number))
        target.checkpoints.mkdir(parents=True)
        form = "safetensors" if number % 2 else "pt"
        words = place.words(target.root, **settings, n_gpus=ranks, save_format=form)
        args = [before.checkpoints / "2", target.checkpoints, tp_size, *words]
        result = run_ranks(PROGRAMS / "resave.py", ranks, tmp_path, args=args)
        assert result.returncode == 0, result.output
        assert (len(list((target.checkpoints / "2").glob("*.safetensors"))) > 2) == (form == "safetensors")
        same = target.weights(2)
        assert all(torch.equal(weight, same[name]) for name, weight in first.weights(2).items())
        states = target.optimizer(2)
        for name, state in first.optimizer(2).items():
            assert states[name].keys() == state.keys()
            for key, value in state.items():
                assert torch.equal(states[name][key], value) if isinstance(value, torch.Tensor) else value == {2}
        shutil.rmtree(before.root)
        before, first = target, target
