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
    weights: Tensor | None = None  # [T] float32, of the targets in the loss, 0 where there is none; None: each counts 1

    def __reduce__(self) -> tuple[Any, ...]:
        weights = None if self.weights is None else self.weights.numpy()
        lists = self.lengths, self.tasks, self.sequences
        return _strip, (self.tokens.numpy(), self.targets.numpy(), *lists, weights)


def _strip(
    tokens: np.ndarray,
    targets: np.ndarray,
    lengths: list[int],
    tasks: list[int],
    sequences: list[int],
    weights: np.ndarray | None,
) -> Strip:
    weights_T = None if weights is None else torch.from_numpy(weights)
    return Strip(torch.from_numpy(tokens), torch.from_numpy(targets), lengths, tasks, sequences, weights_T)


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
    weights = np.zeros(len(targets), dtype=np.float32) if any(map(_is_weighted, rows)) else None
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
                        if weights is not None:
                            own = 1 if sequence.weights is None else sequence.weights[start:stop]
                            weights[start + shift : stop + shift] = own
                entries.append((size, piece.task, which))
                place += size
        if place < end:
            entries.append((end - place, PADDING_TASK, 0))
    lengths, tasks, sequences = (list(column) for column in zip(*entries, strict=True))
    return _strip(tokens, targets, lengths, tasks, sequences, weights)


def _is_weighted(row: Row) -> bool:
    return any(sequence.weights is not None for piece in row.pieces for sequence in piece.document.sequences)
