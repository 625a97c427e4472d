"""The order in which a dataset's records are read: a keyed permutation that needs no memory.

A balanced Feistel network (Luby & Rackoff, 1988) permutes the smallest 2^(2h) >= N; walking its cycles
until a number below N comes up makes that a permutation of [0, N) (Black & Rogaway, 2002).
"""

from __future__ import annotations

import hashlib

ROUNDS = 4
_MASK = (1 << 64) - 1


def stable_hash(*parts: str | int) -> bytes:
    """32 bytes that depend on the parts alone: the same on every machine and Python."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()


def unit_interval(*parts: str | int) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(stable_hash(*parts)[:8], "little") / 2**64


class Permutation:
    """A bijection of [0, size), a function of `key` (any parts) alone."""

    def __init__(self, size: int, *key: str | int) -> None:
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._low = (1 << self._half) - 1
        digest = stable_hash(*key)
        self._keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS)]

    def __call__(self, index: int) -> int:
        """The record at place `index`, 0 <= index < size."""
        assert 0 <= index < self.size
        half, low = self._half, self._low
        while True:
            left, right = index >> half, index & low
            for key in self._keys:
                # a multiplicative hash (constants of splitmix64) of the right half
                mixed = ((right + key) * 0xBF58476D1CE4E5B9) & _MASK
                mixed = ((mixed ^ (mixed >> 29)) * 0x94D049BB133111EB) & _MASK
                left, right = right, left ^ ((mixed >> 32) & low)
            index = (left << half) | right
            if index < self.size:
                return index
