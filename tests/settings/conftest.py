"""One tiny place, and runs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.outputs import Output, copy_output
from tests.support.places import Place
from tests.support.runs_here import Ended, train_here


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, tokenizer, mixture and model config: read them, do not change them."""
    return Place.make(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def plain(place: Place, tmp_path_factory: pytest.TempPathFactory, single_rank: None) -> Ended:
    """Four steps with the settings of SETTINGS and a checkpoint of each step: read it, do not change it."""
    return train_here(place, tmp_path_factory.mktemp("plain"), save_iters=1)


@pytest.fixture
def own(plain: Ended, tmp_path: Path) -> Output:
    """A copy of it, to go on from."""
    return copy_output(plain, tmp_path / "own")


@pytest.fixture
def run(place: Place, tmp_path: Path, single_rank: None) -> Callable[..., Ended]:
    """A run with changed settings, in a folder of its own."""

    def start(**changes: object) -> Ended:
        return train_here(place, tmp_path / str(len(list(tmp_path.iterdir()))), **changes)

    return start
