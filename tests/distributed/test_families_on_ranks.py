"""Models of every family are finetuned alike on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fm9g.convert.families import FAMILIES
from tests.support import families
from tests.support.ranks import run_ranks

PROGRAM = Path(__file__).parent / "programs" / "families.py"
STEPS = 10


def test_there_is_a_model_of_every_family() -> None:
    assert sorted(families.FAMILIES) == sorted(family.architecture for family in FAMILIES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What one rank makes of all families, and what two make."""
    folder, found = tmp_path_factory.mktemp("families"), {}
    for ranks in (1, 2):
        path = folder / f"{ranks}.pt"
        result = run_ranks(PROGRAM, ranks, folder, (path, STEPS, *families.FAMILIES), timeout=300)
        assert result.returncode == 0, result.output
        found[ranks] = torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("architecture", families.FAMILIES)
def test_two_ranks_finetune_as_one_does(trained: dict[int, Any], architecture: str) -> None:
    alone, two = (trained[ranks][architecture] for ranks in (1, 2))
    assert two["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert [x is None for x in alone["routers"]] == [not families.config_of(architecture).num_experts] * STEPS
    for (mine, count), theirs in zip(filter(None, two["routers"]), filter(None, alone["routers"]), strict=True):
        assert (mine, count) == pytest.approx(theirs, rel=1e-5)
    assert alone["losses"][-1] < alone["losses"][0]
    assert two["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    assert any(".lora." in name for name in alone["final"])
