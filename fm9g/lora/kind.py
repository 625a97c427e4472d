"""What adapters are besides their tensors."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """Rank and scale of adapters, and whether rows have lengths of their own (DoRA)."""

    r: int
    alpha: float
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by: alpha / r, or alpha / sqrt(r)
        (rsLoRA, Kalajdzievski, https://arxiv.org/abs/2312.03732)."""
        return self.alpha / (self.r**0.5 if self.rslora else self.r)
