"""All that a lane must remember between rows, as a checkpoint holds it: a few integers in one array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NONE = -1


@dataclass(frozen=True)
class LaneState:
    """A lane's place in each of its corpora: lists of [corpora] integers."""

    base: list[int]  # the documents done before the corpus's window
    tokens: list[int]  # those yielded since the balance was last begun
    next_token: list[int]  # where the document in progress, the window's first, goes on, or NONE
    taken: list[int]  # the mask of documents done in the window
    rows: int  # since the shares were last changed

    @staticmethod
    def size(corpora: int) -> int:
        """The number of int64 that `pack` gives."""
        return 4 * corpora + 1

    @classmethod
    def unpack(cls, values: np.ndarray) -> LaneState:
        """The state in `values`, [size] int64."""
        base, tokens, next_token, taken = values[:-1].reshape(4, -1).tolist()
        return cls(base, tokens, next_token, taken, int(values[-1]))

    def pack(self) -> np.ndarray:
        """[size] int64."""
        return np.array([*self.base, *self.tokens, *self.next_token, *self.taken, self.rows], dtype=np.int64)

    def begun(self, corpus: int) -> int:
        """The last document of a corpus that the lane has begun, counted from 0 in its own, or -1."""
        base, taken = self.base[corpus], self.taken[corpus]
        return base + taken.bit_length() - 1 if taken else base - (self.next_token[corpus] == NONE)

    def arranged(self, corpora: int, before: Mapping[int, int], keep_balance: bool) -> LaneState:
        """The state for so many corpora, {corpus: its number before}, of which all others begin.

        Without `keep_balance` no corpus has a claim to what others have read.
        """

        def kept(values: list[int], otherwise: int = 0) -> list[int]:
            return [values[before[corpus]] if corpus in before else otherwise for corpus in range(corpora)]

        return LaneState(
            kept(self.base),
            kept(self.tokens) if keep_balance else [0] * corpora,
            kept(self.next_token, NONE),
            kept(self.taken),
            self.rows if keep_balance else 0,
        )
