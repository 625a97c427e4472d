"""The random generators' states go on where they were, in memory and in a file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fm9g.checkpoint.random_state import random_state, set_random_state

pytestmark = pytest.mark.usefixtures("single_rank")


def drawn() -> list[float]:
    return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.random(), torch.rand(()).item()]


@pytest.mark.parametrize("normals", [0, 1, 2])  # made two at a time: the second of a pair may be still to come
def test_what_is_drawn_next_is_what_would_have_been(normals: int, tmp_path: Path) -> None:
    for _ in range(normals):
        random.gauss(0, 1)
        np.random.normal()
    state = random_state()
    expected = drawn()
    set_random_state(state)
    assert drawn() == expected
    torch.save(state, tmp_path / "random.pt")
    set_random_state(torch.load(tmp_path / "random.pt", weights_only=True))
    assert drawn() == expected


def test_a_state_of_an_older_checkpoint_has_no_second_normal() -> None:
    random.gauss(0, 1)
    np.random.normal()
    state = random_state()
    set_random_state({name: value for name, value in state.items() if not name.endswith("_gauss")})
    assert random.getstate()[2] is None
    assert np.random.get_state(legacy=False)["has_gauss"] == 0
    assert random.getstate()[1] == tuple(state["python"].tolist())
