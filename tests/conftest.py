"""The whole suite runs on the cpu backend, so that it says the same on every machine; FM9G_BACKEND chooses another."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("FM9G_BACKEND", "cpu")


@pytest.fixture(scope="session")
def single_rank() -> None:
    """Make this process a run of one rank, for tests that build BMTrain modules in it."""
    from fm9g import runtime

    runtime.initialize(seed=0)
