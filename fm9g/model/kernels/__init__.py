"""Attention kernels, in order of preference; the last runs everywhere."""

from __future__ import annotations

import torch

from fm9g.model.kernels import flash, plain, sdpa, varlen
from fm9g.model.kernels.kernel import Kernel

KERNELS = (flash.KERNEL, varlen.KERNEL, sdpa.KERNEL)
# The setting `flash`: the best there is, or the reference.
CHOICES = {"cuda": KERNELS, "none": (plain.KERNEL,)}


def choose_kernel(flash: str, dtype: torch.dtype, on_cuda: bool) -> Kernel:
    """The first kernel of the setting `flash` (cuda or none) that runs in `dtype` on the device."""
    return next(kernel for kernel in CHOICES[flash] if kernel.supports(dtype, on_cuda))
