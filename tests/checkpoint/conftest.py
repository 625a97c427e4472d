"""One tiny place for all tests of this folder, and a run with checkpoints."""

from __future__ import annotations

import shutil

import pytest

from tests.support.outputs import Output
from tests.support.places import Place
from tests.support.runs_here import train_here


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, tokenizer, mixture and model config: read them, do not change them."""
    return Place.make(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory, single_rank):
    """A run of three steps with a checkpoint of each: read it, do not change it."""
    return train_here(place, tmp_path_factory.mktemp("trained"), train_iters=3, save_iters=1)


@pytest.fixture
def own(trained, tmp_path):
    """A copy of it, to go on from."""
    shutil.copytree(trained.root, tmp_path / "own")
    return Output(tmp_path / "own")
