"""Products of rows with matrices of which each group of rows has its own, as tokens have that go to different experts.

One kernel for all groups where torch has it (bf16 on a GPU), without asking the device how long they are; a loop over
the groups elsewhere.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

_ALIGNED = 8  # values: the grouped kernel wants rows of whole 16 bytes


class Groups:
    """N rows in so many groups, one after another: group g ends before row `ends[g]`."""

    def __init__(self, ends: Tensor) -> None:
        self.ends = ends  # [groups] int32, on the device
        self._bounds: list[int] | None = None

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(first row, end) of each group, on the host."""
        self._bounds = self._bounds or [0, *self.ends.tolist()]
        return list(itertools.pairwise(self._bounds))

    @property
    def empty(self) -> Tensor:
        """[groups] bool: which have no rows."""
        return self.ends.diff(prepend=self.ends.new_zeros(1)) == 0


def grouped_kernel_takes(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether torch multiplies these, [N, in] and [groups * out, in], in one kernel, forward and backward."""
    aligned = x.shape[1] % _ALIGNED == 0 and weight.shape[0] // groups % _ALIGNED == 0
    if not (aligned and x.is_cuda and x.dtype == torch.bfloat16 and hasattr(torch, "_grouped_mm")):
        return False
    return kernel_is_for(torch.__version__, torch.cuda.get_device_capability(x.device))


@functools.cache
def kernel_is_for(torch_version: str, capability: tuple[int, int]) -> bool:
    """Whether that torch's kernel runs on a device of this capability: before 2.9 on Hopper's alone, and no later."""
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    return capability >= (8, 0) if (major, minor) >= (2, 9) else capability == (9, 0)


def products(x_NI: Tensor, matrices_GIO: Tensor, groups: Groups, one_kernel: bool) -> Tensor:
    """[N, I] -> [N, O], each row times its group's matrix."""
    if one_kernel:
        product: Tensor = torch._grouped_mm(x_NI, matrices_GIO, offs=groups.ends)
        return product
    result = x_NI.new_empty(x_NI.shape[0], matrices_GIO.shape[2])
    for matrix_IO, (start, end) in zip(matrices_GIO, groups.ranges, strict=True):
        torch.mm(x_NI[start:end], matrix_IO, out=result[start:end])
    return result


def sums_of_products(y_NO: Tensor, x_NI: Tensor, groups: Groups, one_kernel: bool) -> Tensor:
    """[N, O] and [N, I] -> [groups, O, I]: yᵀ x of each group's rows, 0 of a group without any."""
    if one_kernel:
        sums: Tensor = torch._grouped_mm(y_NO.t(), x_NI, offs=groups.ends)
        return sums.masked_fill_(groups.empty[:, None, None], 0)  # which the kernel need not have written
    result = x_NI.new_empty(len(groups.ranges), y_NO.shape[1], x_NI.shape[1])
    for sums_OI, (start, end) in zip(result, groups.ranges, strict=True):
        torch.mm(y_NO[start:end].t(), x_NI[start:end], out=sums_OI)
    return result


class GroupedLinear(torch.autograd.Function):
    """[N, in] and a weight [groups * out, in], the groups' one after another -> [N, out].

    Keeps the weight itself for backward and no view of it, which would keep what BMTrain has gathered alive. The
    gradient is of all groups, whichever have rows.
    """

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight: Tensor, groups: Groups) -> Tensor:
        ctx.save_for_backward(x_NI, weight)
        ctx.groups, ctx.one_kernel = groups, grouped_kernel_takes(x_NI, weight, len(groups.ends))
        matrices_GOI = weight.view(len(groups.ends), -1, weight.shape[1])
        return products(x_NI, matrices_GOI.transpose(1, 2), groups, ctx.one_kernel)

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_NI, weight = ctx.saved_tensors
        gradient_NO, of_x, of_weight = gradient_NO.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            matrices_GOI = weight.view(len(ctx.groups.ends), -1, weight.shape[1])
            of_x = products(gradient_NO, matrices_GOI, ctx.groups, ctx.one_kernel)
        if ctx.needs_input_grad[1]:
            of_weight = sums_of_products(gradient_NO, x_NI, ctx.groups, ctx.one_kernel).view(weight.shape)
        return of_x, of_weight, None


class Taken(torch.autograd.Function):
    """Rows x[order // copies] of x [T, D], `order` a permutation of T * copies; `inverse` is the other way.

    Its gradient is a sum in a fixed order, where that of an index would be added up as it comes.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order: Tensor, inverse: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.copies = copies
        return x_TD[order // copies if copies > 1 else order]

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        gradient_ND = gradient_ND[inverse]
        if ctx.copies > 1:
            gradient_ND = gradient_ND.view(-1, ctx.copies, gradient_ND.shape[1]).sum(1)
        return gradient_ND, None, None, None
