"""BMTrain's two Adams are AdamW (decoupled decay, fp32 state) in every dtype, whatever the loss scale does."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fm9g.runtime import adam, bmt

SHAPES = ((5, 7), (11,), (3, 2, 4), (0,))  # the last: what a rank holds of a parameter smaller than the world
HALF_TYPES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALF_TYPES)
KINDS = (bmt.optim.AdamOptimizer, bmt.optim.AdamOffloadOptimizer)
SETTINGS: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1 + step)
    return [torch.randn(shape, generator=generator) / (1 + step) for shape in SHAPES]


def masters(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """What torch.optim.AdamW updates for the reference: the same numbers in float32."""
    return [torch.nn.Parameter(param.detach().clone().float()) for param in params]


def steps(
    optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], numbers: range, scale: float = 1.0
) -> None:
    """Steps on gradients that are rounded to the parameter's dtype after multiplication with `scale`."""
    for number in numbers:
        for param, grad in zip(params, gradients(number), strict=True):
            param.grad = (grad * scale).to(param.dtype)
        optimizer.step(scale=scale)  # type: ignore[call-overload]


def reference_steps(
    optimizer: torch.optim.Optimizer,
    params: list[torch.nn.Parameter],
    numbers: range,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> None:
    """The same with torch.optim.AdamW on float32 masters and the gradients as they were rounded."""
    for number in numbers:
        for param, grad in zip(params, gradients(number), strict=True):
            param.grad = (grad * scale).to(dtype).float() / scale
        optimizer.step()


def assert_masters_equal(optimizer: Any, params: list[torch.nn.Parameter], expected: list[torch.nn.Parameter]) -> None:
    """Masters equal torch's to the rounding of float32, and parameters are masters rounded once.

    The tolerance: a step does some ten float32 operations, each within 2^-24 of exact, fused here and not in the
    reference; thirty steps of relative size 0.01 stay below 1e-6.
    """
    for param, theirs in zip(params, expected, strict=True):
        master = optimizer.state[param].get("_param_fp32", param.detach())
        torch.testing.assert_close(master, theirs.detach(), rtol=1e-6, atol=1e-7)
        assert torch.equal(param.detach(), master.to(param.dtype))


def test_float32_is_torch_adamw_to_the_bit() -> None:
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    steps(bmt.optim.AdamOptimizer(mine, **SETTINGS), mine, range(20))
    reference_steps(torch.optim.AdamW(theirs, **SETTINGS), theirs, range(20), torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@each_kind
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_every_dtype_is_adamw_on_fp32_masters(kind: Callable[..., Any], dtype: torch.dtype, scale: float) -> None:
    params = parameters(dtype)
    expected = masters(params)
    optimizer = kind(params, **SETTINGS)
    steps(optimizer, params, range(20), scale)
    reference_steps(torch.optim.AdamW(expected, **SETTINGS), expected, range(20), dtype, scale)
    assert_masters_equal(optimizer, params, expected)


@each_kind
def test_half_types_do_not_lose_updates_smaller_than_their_resolution(kind: Callable[..., Any]) -> None:
    """A thousand steps of 1e-5 move a bfloat16 weight of 1 by 0.01, though each alone rounds to nothing."""
    param = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = kind([param], lr=1e-5)
    for _ in range(1000):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert param.item() == torch.tensor(0.99).bfloat16().item()


@each_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_several_groups_keep_their_own_settings(kind: Callable[..., Any], dtype: torch.dtype) -> None:
    def groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        return [
            {"params": params[:1], "lr": 0.03, "weight_decay": 0.3},
            {"params": params[1:2], "betas": (0.8, 0.9), "weight_decay": 0.0},
            {"params": params[2:], "eps": 1e-3, "maximize": True},
        ]

    params = parameters(dtype)
    expected = masters(params)
    optimizer = kind(groups(params), **SETTINGS)
    steps(optimizer, params, range(10))
    reference_steps(torch.optim.AdamW(groups(expected), **SETTINGS), expected, range(10), dtype)
    assert_masters_equal(optimizer, params, expected)


@each_kind
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_a_changing_loss_scale_changes_nothing(kind: Callable[..., Any], dtype: torch.dtype, single_rank: None) -> None:
    """Through OptimManager: overflows are skipped and halve the scale, good steps double it, and what was learnt stays.

    BMTrain's own fp16 Adam multiplies moments by the scale and rescales them; here they do not know of it.
    """
    params = parameters(dtype)
    expected = masters(params)
    optimizer, reference = kind(params, **SETTINGS), torch.optim.AdamW(expected, **SETTINGS)
    manager = bmt.optim.OptimManager(loss_scale=4096, loss_scale_factor=2, loss_scale_steps=3)
    manager.add_optimizer(optimizer)
    overflows, scales = {0, 1, 7, 15}, []
    for number in range(24):
        scale = manager.loss_scale
        scales.append(scale)
        for param, grad in zip(params, gradients(number), strict=True):
            param.grad = (grad * scale).to(dtype)
        if number in overflows:
            params[1].grad[3] = float("inf")
        else:
            reference_steps(reference, expected, range(number, number + 1), dtype, scale)
        manager.step()
    assert (scales[0], min(scales), max(scales)) == (4096, 1024, 8192)
    assert_masters_equal(optimizer, params, expected)


@each_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_restored_optimizer_continues_identically(kind: Callable[..., Any], dtype: torch.dtype) -> None:
    """Through a file read without pickle's code; the new optimizer's own settings give way to the saved ones."""
    params = parameters(dtype)
    optimizer = kind(params, **SETTINGS)
    steps(optimizer, params, range(5), 64.0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    restored = [torch.nn.Parameter(param.detach().clone()) for param in params]
    other = kind(restored, lr=123.0)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    steps(optimizer, params, range(5, 12), 64.0)
    steps(other, restored, range(5, 12), 64.0)
    assert all(torch.equal(a, b) for a, b in zip(params, restored, strict=True))


@each_kind
def test_a_restored_first_moment_keeps_fp32(kind: Callable[..., Any]) -> None:
    """An fp16 weight's momentum below fp16's smallest number survives a checkpoint."""
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = kind([param], lr=0.1)
    param.grad = torch.full_like(param, 6e-8)
    optimizer.step(scale=1024.0)
    moment = optimizer.state[param]["exp_avg"].clone()
    assert 0 < moment[0] < 1e-10
    other = kind([param], lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[param]["exp_avg"], moment)


@each_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_hold_steps_gather_moments_without_moving(kind: Callable[..., Any], dtype: torch.dtype) -> None:
    params = parameters(dtype)
    before = [param.detach().clone() for param in params]
    expected = masters(params)
    optimizer = kind(params, hold_steps=3, **SETTINGS)
    reference = torch.optim.AdamW(expected, **{**SETTINGS, "lr": 0.0})
    steps(optimizer, params, range(3))
    reference_steps(reference, expected, range(3), dtype)
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    reference.param_groups[0]["lr"] = SETTINGS["lr"]
    steps(optimizer, params, range(3, 6))
    reference_steps(reference, expected, range(3, 6), dtype)
    assert_masters_equal(optimizer, params, expected)


@each_kind
def test_frozen_parameters_and_those_without_gradient_stay(kind: Callable[..., Any]) -> None:
    frozen, unused, used = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    used.grad = torch.ones(2)
    optimizer = kind([frozen, unused, used], **SETTINGS)
    optimizer.step()
    assert frozen.tolist() == unused.tolist() == [1, 1]
    assert used.tolist() != [1, 1]
    assert set(optimizer.state) == {used}


@each_kind
def test_a_closure_computes_the_gradients(kind: Callable[..., Any]) -> None:
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = kind([param], lr=0.5)

    def closure() -> Tensor:
        loss = (3 * param).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 6
    torch.testing.assert_close(param.detach(), torch.tensor([0.5, 0.5]))


@each_kind
def test_other_dtypes_are_refused(kind: Callable[..., Any]) -> None:
    param = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match=r"fp32, fp16 and bf16 gradients, not torch\.float64"):
        kind([param]).step()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_size_of_a_bucket_changes_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    one_bucket, many = parameters(dtype), parameters(dtype)
    steps(bmt.optim.AdamOptimizer(one_bucket, **SETTINGS), one_bucket, range(5), 8.0)
    monkeypatch.setattr(adam, "BUCKET_ELEMENTS", 12)
    steps(bmt.optim.AdamOptimizer(many, **SETTINGS), many, range(5), 8.0)
    assert all(torch.equal(a, b) for a, b in zip(one_bucket, many, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_offload_reports_the_mean_and_variance_of_its_updates(dtype: torch.dtype) -> None:
    params = parameters(dtype)
    optimizer = bmt.optim.AdamOffloadOptimizer(params, record_delta=True, **SETTINGS)
    before = [param.detach().clone().float() for param in params]
    steps(optimizer, params, range(1))
    after = [optimizer.state[param]["_param_fp32"] for param in params]
    deltas = torch.cat([((a - b) / SETTINGS["lr"]).flatten() for a, b in zip(before, after, strict=True)])
    assert optimizer.get_avg_delta() == pytest.approx(deltas.mean().item(), rel=1e-4)
    assert optimizer.get_var_delta() == pytest.approx(deltas.var(correction=0).item(), rel=1e-4)
