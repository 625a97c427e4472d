"""Tensor parallelism does not show in what is learnt, told or saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.outputs import Output
from tests.support.places import Place
from tests.support.ranks import run_ranks
from tests.support.runs_here import train_here

PROGRAMS = Path(__file__).parent / "programs"
# Mathematics of families, and S²-Attn
OTHERS = ("alibi, layer norms, biases", "branch norms, windows, soft caps", "groups of tokens", "biases, dora")
CASES = ("heads", "grouped", "one key head", "half", "lora", "dora", "lora and embeddings", *OTHERS)
SHAPES = {
    (2, 2): CASES,
    (4, 4): ("one key head", "dora", "biases, dora"),
    (4, 2): (),
}  # ranks and tp_size: what is not in the soak alone
STEPS = 4


def each(cases: Sequence[str]) -> pytest.MarkDecorator:
    """A test of these cases on ranks of each shape."""
    return pytest.mark.parametrize(
        ("shape", "case"),
        [
            pytest.param(shape, case, marks=[] if case in quick else pytest.mark.soak)
            for shape, quick in SHAPES.items()
            for case in cases
        ],
        ids=str,
    )


Runs = Callable[[tuple[int, int], str], Any]


def trained(folder: Path, ranks: int, tp_size: int, steps: int, cases: Sequence[str]) -> Any:
    """What so many ranks with a tp_size make of the same batches."""
    path = folder / f"{ranks}-{tp_size}.pt"
    result = run_ranks(PROGRAMS / "tensor_parallel.py", ranks, folder, (path, tp_size, steps, *cases), timeout=600)
    assert result.returncode == 0, result.output
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What ranks make of a case; cases run together, those of the soak by themselves."""
    folder, found = tmp_path_factory.mktemp("tp"), dict[tuple[Any, ...], Any]()

    def run(shape: tuple[int, int], case: str) -> Any:
        quick = SHAPES.get(shape, CASES)
        cases = quick if case in quick else tuple(name for name in CASES if name not in quick)
        if (shape, cases) not in found:
            found[shape, cases] = trained(folder, *shape, STEPS, cases)
        return found[shape, cases][case]

    return run


def assert_alike(found: Any, alone: Any, case: str) -> None:
    """In float32 sums alone are of another order; in bf16 they are rounded, too."""
    if case == "half":
        assert found["losses"] == pytest.approx(alone["losses"], rel=2e-2)
        return
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert alone["losses"][-1] < alone["losses"][0]
    assert found["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    assert found["final"].keys() == alone["final"].keys()
    for name, weight in alone["final"].items():
        if "alibi" in case and name.endswith("project_k.bias"):
            continue  # it raises the scores of all keys alike: its gradient is 0, and AdamW makes steps of its rounding
        # an element whose gradient is next to nothing is moved by its rounding: by a part of lr, 0.01
        torch.testing.assert_close(found["final"][name], weight, rtol=1e-4, atol=1e-3, msg=name)


@each(CASES)
def test_the_same_losses_gradients_and_weights(runs: Runs, shape: tuple[int, int], case: str) -> None:
    assert_alike(runs(shape, case), runs((1, 1), case), case)


@each([case for case in CASES if case != "half"])  # of which after some steps they are not near enough
def test_what_a_model_says_is_the_same(runs: Runs, shape: tuple[int, int], case: str) -> None:
    """Logits, scores, log-probabilities with the gradient that these are given, and what it generates in lockstep."""
    alone = runs((1, 1), case)["told"]
    for name, told in runs(shape, case)["told"].items():
        torch.testing.assert_close(told, alone[name], rtol=1e-3, atol=1e-3 * float(alone[name].abs().max()), msg=name)


@pytest.mark.soak
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_losses_over_twenty_steps(tmp_path: Path, shape: tuple[int, int]) -> None:
    found, alone = (trained(tmp_path, *of, 20, CASES) for of in (shape, (1, 1)))
    for case in CASES:
        rel = 5e-2 if case == "half" else 1e-5
        assert found[case]["losses"] == pytest.approx(alone[case]["losses"], rel=rel), case


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
