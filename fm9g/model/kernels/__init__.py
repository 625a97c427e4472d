"""Attention kernels, in order of preference; the last runs everywhere, and knows everything."""

from __future__ import annotations

import torch

from fm9g.model.kernels import chunked, flash, plain, sdpa, varlen
from fm9g.model.kernels.kernel import Kernel, Scores

KERNELS = (flash.KERNEL, varlen.KERNEL, sdpa.KERNEL, chunked.KERNEL)
# The setting `flash`: the best there is, or the reference.
CHOICES = {"cuda": KERNELS, "none": (plain.KERNEL,)}


def choose_kernel(flash: str, dtype: torch.dtype, on_cuda: bool, scores: Scores) -> Kernel:
    """The first kernel of the setting `flash` (cuda or none) that runs in `dtype` on the device, and scores so."""
    return next(kernel for kernel in CHOICES[flash] if kernel.supports(dtype, on_cuda, scores))
