"""The random generators' states in a checkpoint, one file a rank."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fm9g import runtime
from fm9g.tensors.readers import map_pt

RANDOM_FILE = "random-{rank:05d}.pt"


def random_state() -> dict[str, Any]:
    """The states of all generators that a run draws from."""
    _, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, numpy_gauss = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(numbers, dtype=torch.int64),
        "python_gauss": gauss,  # normal numbers are made two at a time: the second, where it is still to come
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_position": int(position),
        "numpy_gauss": float(numpy_gauss) if has_gauss else None,
    }
    if (device := runtime.device_random_state()) is not None:
        state["cuda"] = device
    return state


def load_random_state(path: Path) -> None:
    """Restore this rank's generators from its file of a checkpoint."""
    set_random_state(map_pt(path))


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put all generators back afterwards, whatever was drawn."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def set_random_state(state: dict[str, Any]) -> None:
    """Put all generators into a state of `random_state`."""
    torch.set_rng_state(state["torch"])
    random.setstate((3, tuple(state["python"].tolist()), state.get("python_gauss")))
    gauss = state.get("numpy_gauss")  # which older checkpoints do not have
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, state["numpy_position"], int(gauss is not None), gauss or 0.0))
    if "cuda" in state:
        runtime.load_device_random_state(state["cuda"])
