"""The rows of a micro-step as the model reads them, and what tells rows apart."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fm9g.data.stream.lane import Row

IGNORED = -100
PADDING_TASK = -1


@dataclass
class Strip:
    """The rows of one micro-step end to end: T = batch_size * row_length places.

    `lengths`, `tasks` and `sequences` have an entry for each piece of a sequence, in which positions begin anew;
    padding is a piece of its own. It leaves a worker by value: tensors would go through shared memory, which a killed
    process can leave behind.
    """

    tokens: Tensor  # [T] int32
    targets: Tensor  # [T] int32, -100 where there is no loss
    lengths: list[int]  # they sum to T
    tasks: list[int]  # -1 for padding
    sequences: list[int]  # which sequence of its document it is of, from 0; 0 for padding

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_strip, (self.tokens.numpy(), self.targets.numpy(), self.lengths, self.tasks, self.sequences)


def _unpickled_strip(tokens: np.ndarray, targets: np.ndarray, *lists: list[int]) -> Strip:
    return Strip(torch.from_numpy(tokens), torch.from_numpy(targets), *lists)


def row_digest(row: Row, names: list[str]) -> bytes:
    """sha256 over (task, record, first token, last token) of each piece."""
    digest = sha256()
    for piece in row.pieces:
        digest.update(names[piece.task].encode())
        digest.update(struct.pack("<qqq", piece.document.record, piece.first, piece.last))
    return digest.digest()


def make_strip(rows: list[Row], row_length: int) -> Strip:
    """Lay rows end to end; what a row leaves empty is padding with no loss."""
    tokens = np.zeros(len(rows) * row_length, dtype=np.int32)
    targets = np.full(len(rows) * row_length, IGNORED, dtype=np.int32)
    entries: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        place, end = number * row_length, (number + 1) * row_length
        for piece in row.pieces:
            for which, sequence, first, last in piece.sequences:
                size = last - first
                tokens[place : place + size] = sequence.tokens[first:last]
                shift = place - first - 1  # the target of a token stands in its place
                for start, stop in sequence.targets:
                    start, stop = max(start, first + 1), min(stop, last + 1)
                    if start < stop:
                        targets[start + shift : stop + shift] = sequence.tokens[start:stop]
                entries.append((size, piece.task, which))
                place += size
        if place < end:
            entries.append((end - place, PADDING_TASK, 0))
    lengths, tasks, sequences = (list(column) for column in zip(*entries, strict=True))
    return Strip(torch.from_numpy(tokens), torch.from_numpy(targets), lengths, tasks, sequences)
