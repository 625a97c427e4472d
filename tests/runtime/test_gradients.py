"""OptimManager's work on all gradients at once: norm and clipping equal torch's, and zeroing keeps the buffers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fm9g.runtime import bmt

pytestmark = pytest.mark.usefixtures("single_rank")

SHAPES = ((5, 7), (11,), (0,), (3, 2, 4))


def managed(dtype: torch.dtype, **settings: Any) -> tuple[Any, list[torch.nn.Parameter]]:
    """A manager of parameters with gradients, but for the last."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in (*SHAPES, (2,))]
    for param in params[:-1]:
        param.grad = torch.randn(param.shape, generator=generator).to(dtype)
    manager = bmt.optim.OptimManager(**settings)
    manager.add_optimizer(bmt.optim.AdamOptimizer(params))
    return manager, params


@pytest.mark.parametrize("norm_type", [1, 2, "inf"])
@pytest.mark.parametrize("largest", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_clipping_is_torchs(dtype: torch.dtype, largest: float, norm_type: float | str) -> None:
    manager, params = managed(dtype)
    expected = [torch.nn.Parameter(param.detach().float()) for param in params[:-1]]
    for theirs, param in zip(expected, params, strict=False):
        theirs.grad = param.grad.float().clone()
    norm = manager.clip_grad_norm(manager.optimizers[0].param_groups, largest, norm_type)
    given = [theirs for theirs in expected if theirs.numel()]  # torch's takes no largest of nothing either
    exact = torch.nn.utils.clip_grad_norm_(given, largest, float(norm_type))
    torch.testing.assert_close(norm, exact, rtol=1e-6, atol=0)
    for param, theirs in zip(params, expected, strict=False):
        # the factor carries the norm's rounding, and the product is rounded to the gradient's dtype
        torch.testing.assert_close(param.grad.float(), theirs.grad, rtol=4 * torch.finfo(dtype).eps, atol=1e-7)
    assert params[-1].grad is None


def test_the_norm_is_that_of_gradients_without_the_loss_scale() -> None:
    plain, _ = managed(torch.float16)
    scaled, params = managed(torch.float16, loss_scale=64)
    for param in params[:-1]:
        param.grad *= 64
    norms = [manager.clip_grad_norm(manager.optimizers[0].param_groups, 0.5) for manager in (plain, scaled)]
    torch.testing.assert_close(*norms, rtol=1e-6, atol=0)


def test_zeroing_keeps_the_memory_that_gradients_lie_in() -> None:
    manager, params = managed(torch.bfloat16)
    before = [param.grad.data_ptr() for param in params[:-1]]
    manager.zero_grad()
    assert [param.grad.data_ptr() for param in params[:-1]] == before
    assert all(param.grad.abs().sum() == 0 for param in params[:-1])
    assert params[-1].grad is None


def test_a_rank_without_gradients_has_a_norm_of_nothing() -> None:
    manager, params = managed(torch.float32)
    for param in params:
        param.grad = None
    assert manager.clip_grad_norm(manager.optimizers[0].param_groups, 1.0) == 0
