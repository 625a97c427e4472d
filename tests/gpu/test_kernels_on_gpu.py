"""Every kernel that is there computes on the GPU what is written out in float64 on the CPU, gradients too."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.cross_entropy import linear_cross_entropy
from fm9g.model.grouped import GroupedLinear, Groups
from fm9g.model.kernels import KERNELS, plain
from fm9g.model.kernels.kernel import Scores
from fm9g.model.rotary import rotate
from fm9g.runtime import adam, kernels
from tests.model.dense import context_of, dense

SCORES = (Scores(0.1), Scores(0.1, window=40), Scores(0.3, softcap=5.0))

CUDA = torch.device("cuda")
HALF_TYPES = (torch.bfloat16, torch.float16)
FOUND = {kernel.name: kernel for kernel in (*KERNELS, plain.KERNEL)}
CASES = [
    (name, dtype, scores)
    for name, kernel in FOUND.items()
    for dtype in (*HALF_TYPES, torch.float32)
    for scores in SCORES
    if kernel.supports(dtype, True, scores)
]
LENGTHS = [[7, 130, 1, 62], [1], [513, 300], [1, 1, 1]]


def on_gpu(x: Tensor) -> Tensor:
    return x.detach().to(CUDA).requires_grad_(x.requires_grad)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖; NaN never passes a comparison."""
    return float((found.detach().cpu().double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("kv_heads", "dim_head"), [(8, 64), (2, 128), (1, 80)])
@pytest.mark.parametrize(("name", "dtype", "scores"), CASES)
def test_attention(
    name: str, dtype: torch.dtype, scores: Scores, kv_heads: int, dim_head: int, lengths: list[int]
) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    inputs = [torch.randn(total, heads, dim_head).to(dtype).requires_grad_() for heads in (8, kv_heads, kv_heads)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    mine = [on_gpu(x) for x in inputs]
    factor = torch.randn(total, 8, dim_head).to(dtype)
    output = FOUND[name].attend(*mine, context_of(lengths, "cuda"), scores)  # type: ignore[arg-type, call-arg]
    expected = dense(*exact, lengths, scores)  # type: ignore[arg-type, call-arg]
    (expected * factor.double()).sum().backward()
    (output * factor.to(CUDA)).sum().backward()
    # inputs, weights and outputs are each rounded to the type; float32 products may take TF32-free paths alone
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert output.dtype == dtype
    assert relative_error(output, expected.detach()) < tolerance
    for found, wanted in zip(mine, exact, strict=True):
        # a query of a document of one token has no gradient at all
        if wanted.grad.norm() > 1e-6:
            assert relative_error(found.grad, wanted.grad) < 2 * tolerance


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
def test_head_and_loss(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(700, 64).to(dtype).requires_grad_(), torch.randn(30_000, 64).to(dtype).requires_grad_()
    targets = torch.randint(0, 30_000, (700,))
    targets[::7] = -100
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")
    expected.backward()
    mine = [on_gpu(hidden), on_gpu(weight)]
    total, losses = linear_cross_entropy(*mine, targets.to(CUDA))  # type: ignore[arg-type, call-arg]
    total.backward()
    epsilon = torch.finfo(dtype).eps
    # float32: sums over 30,000 logits; half types: logits of up to 40 and gradients are each rounded once
    tolerance = 1e-5 if dtype == torch.float32 else 2 * epsilon
    assert total.item() == pytest.approx(expected.item(), rel=tolerance)
    assert losses.sum().item() == pytest.approx(expected.item(), rel=tolerance)
    for found, wanted in zip(mine, exact, strict=True):
        assert relative_error(found.grad, wanted.grad) < (1e-4 if dtype == torch.float32 else 8 * epsilon)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
def test_rotation(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 4, 64).to(dtype).requires_grad_()
    angles = torch.outer(torch.arange(300).float(), 10_000 ** (-torch.arange(0, 64, 2) / 64)).unsqueeze(1)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    exact = x.detach().double().requires_grad_()
    first, second = exact.chunk(2, -1)
    expected = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    mine = on_gpu(x)
    output = rotate(mine, cos.to(CUDA), sin.to(CUDA))
    factor = torch.randn(300, 4, 64).to(dtype)
    (expected * factor.double()).sum().backward()
    (output * factor.to(CUDA)).sum().backward()
    tolerance = 2 * torch.finfo(dtype).eps
    assert relative_error(output, expected.detach()) < tolerance
    assert relative_error(mine.grad, exact.grad) < tolerance


@pytest.mark.parametrize("ends", [[100, 100, 137, 300], [0, 0, 0, 300], [8, 16, 24, 300]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
def test_a_linear_layer_of_each_group(dtype: torch.dtype, ends: list[int]) -> None:
    """In bf16 one kernel for all; groups begin anywhere, and some have no rows."""
    torch.manual_seed(0)
    x, weight = torch.randn(300, 64).to(dtype).requires_grad_(), torch.randn(4 * 48, 64).to(dtype).requires_grad_()
    factor, groups = torch.randn(300, 48).to(dtype), torch.tensor(ends, dtype=torch.int32)
    exact = [value.detach().double().requires_grad_() for value in (x, weight)]
    rows = torch.searchsorted(groups, torch.arange(300), right=True)
    expected = torch.einsum("ni,noi->no", exact[0], exact[1].view(4, 48, 64)[rows])
    (expected * factor.double()).sum().backward()
    mine = [on_gpu(x), on_gpu(weight)]
    output = GroupedLinear.apply(*mine, Groups(groups.to(CUDA)))  # type: ignore[no-untyped-call]
    (output * factor.to(CUDA)).sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert relative_error(output, expected.detach()) < tolerance
    for found, wanted in zip(mine, exact, strict=True):
        assert relative_error(found.grad, wanted.grad) < tolerance
    empty = [end == start for start, end in itertools.pairwise([0, *ends])]
    assert [not part.any() for part in mine[1].grad.view(4, 48, 64)] == empty


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_bmtrains_cross_entropy(dtype: torch.dtype) -> None:
    """What stands in for its compiled kernels gives on the GPU what it gives on the CPU."""
    torch.manual_seed(0)
    logits, targets = (8 * torch.randn(60, 1000)).to(dtype), torch.randint(0, 1000, (60,))
    targets[::9] = -100
    logits[0, :500] = float("-inf")
    results = []
    for device in ("cpu", "cuda"):
        given, wanted = logits.to(device), targets.int().to(device)
        softmax, losses = torch.empty_like(given), torch.empty(60, device=device)
        kernels.cross_entropy_forward(60, 1000, given, wanted, softmax, losses, -100)
        gradient = softmax.clone()
        kernels.cross_entropy_backward_inplace(60, 1000, torch.ones(60, device=device), wanted, gradient, -100)
        results.append([x.float().cpu() for x in (softmax, losses, gradient)])
    for found, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("value", [1.0, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_the_look_for_an_overflow(dtype: torch.dtype, value: float) -> None:
    gradient = torch.ones(4097, dtype=dtype, device=CUDA)
    gradient[4096] = value
    flag = torch.zeros(1, dtype=torch.uint8, device=CUDA)[0]
    kernels.has_inf_nan(gradient, flag)
    kernels.has_inf_nan(torch.ones(8, dtype=dtype, device=CUDA), flag)
    assert flag.item() == (value != 1.0)


class Optimizer(torch.optim.Optimizer):
    """What BMTrain's optimizers hand to the steps."""

    record_delta, _hold_steps = False, 0


@pytest.mark.parametrize("step", [adam.adam_step, adam.offload_step])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
def test_adam(dtype: torch.dtype, step: Callable[..., Any]) -> None:
    """Twenty steps equal torch.optim.AdamW's on fp32 masters on the CPU."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    start = [torch.randn(shape).to(dtype) for shape in ((50, 70), (11,), (0,))]
    masters = [torch.nn.Parameter(x.float()) for x in start]
    params = [torch.nn.Parameter(x.to(CUDA)) for x in start]
    reference, optimizer = torch.optim.AdamW(masters, **settings), Optimizer(params, settings)
    for _ in range(20):
        for master, param in zip(masters, params, strict=True):
            grad = (1024 * torch.randn(master.shape)).to(dtype)
            master.grad, param.grad = grad.float() / 1024, grad.to(CUDA)
        reference.step()
        step(optimizer, scale=1024)
    for master, param in zip(masters, params, strict=True):
        kept = optimizer.state[param].get("_param_fp32", param.detach())
        torch.testing.assert_close(kept.cpu(), master.detach(), rtol=1e-6, atol=1e-7)
        assert torch.equal(param.detach(), kept.to(CUDA, dtype))
