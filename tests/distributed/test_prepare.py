"""What `prepare` does to a block before BMTrain wraps it holds in training, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.ranks import run_ranks

WAYS = ("freeze", "adapt", "lora", "dora")
PROGRAM = Path(__file__).parent / "programs" / "prepared.py"


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """How far a step of plain descent moved each weight, and which gradients were stored."""
    folder = tmp_path_factory.mktemp("prepared")
    found = {}
    for how, ranks in (("none", 1), *((how, ranks) for how in WAYS for ranks in (1, 2))):
        path = folder / f"{how}-{ranks}.pt"
        result = run_ranks(PROGRAM, ranks, folder, args=(path, how))
        assert result.returncode == 0, result.output
        found[how, ranks] = torch.load(path, weights_only=True)
    return found


def is_frozen(how: str, name: str) -> bool:
    if how in ("lora", "dora"):
        return ".lora." not in name
    return ".ffn." in name if how == "freeze" else ".base." in name


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("how", WAYS)
def test_frozen_weights_stay_and_store_no_gradient(steps: dict[tuple[str, int], Any], how: str, ranks: int) -> None:
    step = steps[how, ranks]
    frozen = [name for name in step["moved"] if is_frozen(how, name)]
    assert frozen
    assert all(step["moved"][name].abs().max() == 0 for name in frozen)
    assert not [name for name in step["stored"] if is_frozen(how, name)]
    assert all(value.abs().max() > 0 for name, value in step["moved"].items() if name not in frozen)


def test_the_others_gradients_are_those_of_a_model_that_is_all_trained(steps: dict[tuple[str, int], Any]) -> None:
    """The arithmetic is the same; only float32 rounding of where a step leads differs."""
    whole, partly = steps["none", 1]["moved"], steps["freeze", 1]["moved"]
    for name in whole:
        if not is_frozen("freeze", name):
            torch.testing.assert_close(partly[name], whole[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", WAYS)
def test_two_ranks_make_the_step_of_one(steps: dict[tuple[str, int], Any], how: str) -> None:
    """Only the order of float32 sums differs."""
    alone, together = steps[how, 1]["moved"], steps[how, 2]["moved"]
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        assert (together[name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-7, name
