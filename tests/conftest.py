"""Settings for the whole suite and all it starts: the cpu backend, so that it says the same on every machine.

FM9G_BACKEND chooses another backend.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# `make test` tries the same examples each time, so that it fails by what was changed alone; `make soak` tries others
settings.register_profile("same", derandomize=True)
settings.register_profile("soak", max_examples=1000)
settings.load_profile("same")

os.environ.setdefault("FM9G_BACKEND", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin make a busy machine several times slower


@pytest.fixture(scope="session")
def single_rank() -> None:
    """Make this process a run of one rank, for tests that build BMTrain modules in it."""
    from fm9g import runtime

    runtime.initialize(seed=0)
