"""How many ranks share a batch does not show in what is learnt from it: one that accumulates the gradients of its four
rows, or a rank for each; the rows have unequal numbers of targets, and one is padding alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.ranks import run_ranks

PROGRAM = Path(__file__).parent / "programs" / "decoder.py"
STEPS = 6


# Only the order of float32 sums differs; in bf16 a rank's gradient is rounded (2^-9) before the ranks are added
TOLERANCE = {"float32": 1e-5, "bf16": 2e-2, "experts": 1e-5}

several = pytest.mark.parametrize("ranks", [2, 4])
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)  # experts are of float32, and their ranks choose others


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What 1, 2 and 4 ranks make of the same batches, in every dtype."""
    folder = tmp_path_factory.mktemp("ranks")
    found = {}
    for ranks in (1, 2, 4):
        path = folder / f"{ranks}.pt"
        result = run_ranks(PROGRAM, ranks, folder, args=(path, STEPS))
        assert result.returncode == 0, result.output
        found[ranks] = torch.load(path, weights_only=True)
    return found


@several
@each_dtype
def test_the_same_initial_weights(runs: dict[int, Any], ranks: int, dtype: str) -> None:
    alone = runs[1][dtype]["initial"]
    assert all(torch.equal(value, alone[name]) for name, value in runs[ranks][dtype]["initial"].items())


@several
@each_dtype
def test_the_same_gradients(runs: dict[int, Any], ranks: int, dtype: str) -> None:
    for name, alone in runs[1][dtype]["gradients"].items():
        together = runs[ranks][dtype]["gradients"][name]
        assert alone.abs().max() > 0, name
        assert (together - alone).abs().max() < TOLERANCE[dtype] * alone.abs().max(), name


@several
@each_dtype
def test_the_same_losses(runs: dict[int, Any], ranks: int, dtype: str) -> None:
    assert runs[ranks][dtype]["losses"] == pytest.approx(runs[1][dtype]["losses"], rel=TOLERANCE[dtype])


@several
def test_the_same_losses_of_routers(runs: dict[int, Any], ranks: int) -> None:
    """And as many units of them as there are targets: 16, 13 and 2."""
    alone = runs[1]["experts"]["routers"]
    assert runs[ranks]["experts"]["routers"] == pytest.approx(alone, rel=1e-5)
    assert alone[1::2] == [16 + 13 + 2] * STEPS
    assert min(alone[::2]) > 31  # near the 2 experts that a token has


@each_dtype
def test_the_loss_falls(runs: dict[int, Any], dtype: str) -> None:
    """Without which the other tests would say little."""
    for of_ranks in runs.values():
        assert of_ranks[dtype]["losses"][-1] < 0.9 * of_ranks[dtype]["losses"][0]


@several
@each_dtype
def test_the_same_weights_after_several_steps(runs: dict[int, Any], ranks: int, dtype: str) -> None:
    """Measured against how far they moved: Adam makes a full step of even the smallest gradient."""
    allowed = {"float32": 1e-3, "bf16": 0.3, "experts": 1e-3}[dtype]
    for name, start in runs[1][dtype]["initial"].items():
        alone, together = (runs[key][dtype]["final"][name].float() for key in (1, ranks))
        moved = (alone - start.float()).norm()
        assert moved > 0, name
        assert (together - alone).norm() < allowed * moved, name
