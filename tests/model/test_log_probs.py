"""Each token's log-probability against torch's log_softmax in float64, gradients that differ by token included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fm9g.model import cross_entropy
from fm9g.model.cross_entropy import IGNORED
from fm9g.model.log_probs import log_probs
from tests.model.pairs import LENGTHS, config, decoder, gradients, tokens_and_targets

TOKENS, DIM, VOCABULARY = 23, 16, 37


def inputs(tokens: int = TOKENS, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, targets, and a gradient from above for each token."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, DIM, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, DIM, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    targets[1::4] = IGNORED
    return hidden, weight, targets, torch.randn(tokens, generator=generator)


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values and both gradients, in float64."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    valid = targets != IGNORED
    values = (hidden @ weight.T).log_softmax(-1).gather(1, targets.clamp(min=0)[:, None]).squeeze(1) * valid
    (values * upstream.double()).sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    return values.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("chunk", [1, 5, 17, 18, 1000])  # 17 of 23 targets are valid
def test_values_and_gradients_for_any_size_of_chunk(chunk: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", chunk * VOCABULARY)
    hidden, weight, targets, upstream = inputs(tokens)
    found = log_probs(hidden, weight, targets)
    found.backward(upstream)
    for mine, exact in zip((found, hidden.grad, weight.grad), reference(*inputs(tokens)), strict=True):
        assert mine is not None
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32
    assert (found[targets == IGNORED] == 0).all()


def test_all_targets_ignored_are_zeros_without_a_gradient() -> None:
    hidden, weight, targets, upstream = inputs()
    found = log_probs(hidden, weight, torch.full_like(targets, IGNORED))
    found.backward(upstream)
    assert found.tolist() == [0.0] * TOKENS
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.abs().sum() == weight.grad.abs().sum() == 0


@pytest.mark.parametrize("frozen", [0, 1], ids=["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    hidden, weight, targets, upstream = inputs()
    pair = (hidden, weight)
    pair[frozen].requires_grad_(False)
    log_probs(hidden, weight, targets).backward(upstream)
    assert pair[frozen].grad is None
    trained = pair[1 - frozen].grad
    assert trained is not None
    torch.testing.assert_close(trained.double(), reference(*inputs())[2 - frozen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_lose_no_more_than_one_rounding_of_logits_and_gradients(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits (up to 16 here) are rounded by the product that makes them; sums over chunks are kept in float32."""
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 2 * VOCABULARY)
    hidden, weight, targets, upstream = inputs(dtype=dtype)
    found = log_probs(hidden, weight, targets)
    found.backward(upstream)
    values, of_hidden, of_weight = reference(*inputs(dtype=dtype))
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), values, rtol=0, atol=16 * epsilon)
    for gradient, exact in ((hidden.grad, of_hidden), (weight.grad, of_weight)):
        assert gradient is not None and gradient.dtype == dtype
        assert (gradient.double() - exact).norm() < 8 * epsilon * exact.norm()


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor):
                self.numel = max(self.numel, made.numel())
        return result


def test_no_logits_of_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """In neither direction, where the head itself is smaller than a chunk."""
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 20 * VOCABULARY)
    hidden, weight, targets, upstream = inputs(tokens=200)
    with Largest() as largest:
        log_probs(hidden, weight, targets).backward(upstream)
    valid = int((targets != IGNORED).sum())
    assert largest.numel == max(20 * VOCABULARY, valid * DIM, targets.numel() * DIM)
    assert largest.numel < valid * VOCABULARY


@pytest.mark.usefixtures("single_rank")
@pytest.mark.parametrize("tie_lm_head", [False, True])
def test_of_a_decoder_they_are_its_losses(tie_lm_head: bool) -> None:
    tokens, targets = tokens_and_targets(61)
    results = []
    for name in ("loss", "log_probs"):
        model = decoder(config(tie_lm_head=tie_lm_head))
        found = getattr(model, name)(tokens, targets, model.context(LENGTHS))
        total, each = (found[0], found[1]) if name == "loss" else (-found.sum(), -found.detach())
        total.backward()
        results.append({"each": each, **gradients(model)})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-5, atol=1e-5)
