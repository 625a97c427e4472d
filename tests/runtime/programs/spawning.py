"""Processes that a program starts itself: they import its main module, and so BMTrain, anew."""

from __future__ import annotations

import multiprocessing
import sys

import bmtrain as bmt
import torch
from torch.utils.data import DataLoader, Dataset
from uses_bmtrain.parts.helper import positions

from tests.support.checks import run_checks


class Squares(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2,), index, device="cuda") ** 2


def total(count: int) -> tuple[int, list[str], bool]:
    """In a process of its own: a sum on the device, its arguments, and whether BMTrain is there, not initialised."""
    return int(positions(count).cuda().sum()), sys.argv[1:], bmt.init.is_initialized()


def squares(method: str) -> list[list[int]]:
    loader = DataLoader(Squares(), batch_size=3, num_workers=1, multiprocessing_context=method)
    return [batch[:, 0].tolist() for batch in loader]


def check_a_pool_by_spawn() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(total, [3, 5]) == [(3, sys.argv[1:], False), (10, sys.argv[1:], False)]


def check_a_loader_by_forkserver() -> None:
    assert squares("forkserver") == [[0, 1, 4], [9, 16, 25]]


if __name__ == "__main__":
    bmt.init_distributed(seed=1)
    run_checks(globals())
