"""The chunked head and cross-entropy against torch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model import cross_entropy
from fm9g.model.cross_entropy import IGNORED, linear_cross_entropy, linear_scores

TOKENS, DIM, VOCABULARY = 23, 16, 37


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, DIM, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, DIM, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    targets[::4] = IGNORED
    return hidden, weight, targets


def reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, factor: float = 1.0, factors: Tensor | None = None
) -> dict[str, Tensor]:
    """The same numbers in float64: the losses, and the gradients of factor times their sum."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    losses = F.cross_entropy(hidden @ weight.T, targets, reduction="none", ignore_index=IGNORED)
    losses = losses if factors is None else losses * factors.double()
    (factor * losses.sum()).backward()
    return {"losses": losses.detach(), "hidden": hidden.grad, "weight": weight.grad}


def set_chunk(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", tokens * VOCABULARY)


@pytest.mark.parametrize("chunk", [1, 5, 17, 18, 1000])  # 17 of the targets are valid
def test_it_is_cross_entropy_for_any_size_of_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch, chunk)
    hidden, weight, targets = inputs()
    expected = reference(hidden, weight, targets)
    total, losses = linear_cross_entropy(hidden, weight, targets)
    total.backward()
    torch.testing.assert_close(total.double(), expected["losses"].sum(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses.double(), expected["losses"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), expected["hidden"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), expected["weight"], rtol=1e-5, atol=1e-5)
    assert losses[::4].abs().sum() == 0


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_each_loss_is_multiplied_by_its_factor(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch, chunk)
    hidden, weight, targets = inputs()
    factors = torch.rand(TOKENS, generator=torch.Generator().manual_seed(1)) * 3
    factors[5] = 0
    expected = reference(hidden, weight, targets, 1 / 17, factors)
    total, losses = linear_cross_entropy(hidden, weight, targets, factors)
    (total / 17).backward()
    torch.testing.assert_close(losses.double(), expected["losses"], rtol=1e-5, atol=1e-5)
    assert total.item() == pytest.approx(expected["losses"].sum().item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad.double(), expected["hidden"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), expected["weight"], rtol=1e-5, atol=1e-6)


def test_factors_of_one_change_no_bit() -> None:
    found = []
    for factors in (None, torch.ones(TOKENS)):
        hidden, weight, targets = inputs()
        total, losses = linear_cross_entropy(hidden, weight, targets, factors)
        total.backward()
        found.append((total, losses, hidden.grad, weight.grad))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("chunk", [1, 5, 17, 1000])
def test_scores_are_the_losses_and_whether_the_target_is_the_likeliest(chunk: int, monkeypatch: pytest.MonkeyPatch):
    set_chunk(monkeypatch, chunk)
    hidden, weight, targets = inputs()
    expected = (hidden @ weight.T).argmax(1)
    targets[1:9:2] = expected[1:9:2]
    losses, likeliest = linear_scores(hidden, weight, targets)
    assert torch.equal(losses, linear_cross_entropy(hidden, weight, targets)[1])
    assert torch.equal(likeliest, expected == targets) and 4 <= likeliest.sum() < 17
    assert not losses.requires_grad


def test_a_vocabulary_larger_than_a_chunk_works_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", VOCABULARY // 2)
    hidden, weight, targets = inputs()
    total, _ = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(total.detach().double(), reference(hidden, weight, targets)["losses"].sum())


def test_gradients_scale_with_the_loss() -> None:
    """As when it is divided by the tokens of a step, or multiplied by a loss scale."""
    hidden, weight, targets = inputs()
    expected = reference(hidden, weight, targets, factor=1024 / 17)
    total, _ = linear_cross_entropy(hidden, weight, targets)
    (total * 1024 / 17).backward()
    torch.testing.assert_close(hidden.grad.double(), expected["hidden"], rtol=1e-5, atol=1e-5 * 1024 / 17)
    torch.testing.assert_close(weight.grad.double(), expected["weight"], rtol=1e-5, atol=1e-5 * 1024 / 17)


def test_all_targets_ignored_cost_nothing() -> None:
    hidden, weight, targets = inputs()
    total, losses = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORED))
    total.backward()
    assert total.item() == 0
    assert losses.tolist() == [0.0] * TOKENS
    assert hidden.grad.abs().sum() == weight.grad.abs().sum() == 0


@pytest.mark.parametrize("trained", ["hidden", "weight", "neither"])
def test_only_what_is_trained_gets_a_gradient(trained: str) -> None:
    """A frozen head, as with LoRA; a frozen body; and evaluation."""
    hidden, weight, targets = inputs()
    expected = reference(hidden, weight, targets)
    hidden.requires_grad_(trained == "hidden")
    weight.requires_grad_(trained == "weight")
    total, _ = linear_cross_entropy(hidden, weight, targets)
    assert total.requires_grad == (trained != "neither")
    if trained != "neither":
        total.backward()
    for name, value in (("hidden", hidden), ("weight", weight)):
        if name == trained:
            torch.testing.assert_close(value.grad.double(), expected[name], rtol=1e-5, atol=1e-5)
        else:
            assert value.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_lose_no_more_than_one_rounding_of_logits_and_gradients(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits (up to 16 here) are rounded by the product that makes them; sums over chunks are kept in float32."""
    set_chunk(monkeypatch, 2)
    hidden, weight, targets = inputs(dtype)
    expected = reference(hidden, weight, targets)
    total, losses = linear_cross_entropy(hidden, weight, targets)
    total.backward()
    epsilon = torch.finfo(dtype).eps
    assert (total.dtype, losses.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(losses.double(), expected["losses"], rtol=0, atol=16 * epsilon)
    for gradient, exact in ((hidden.grad, expected["hidden"]), (weight.grad, expected["weight"])):
        assert gradient.dtype == dtype
        assert (gradient.double() - exact).norm() < 8 * epsilon * exact.norm()


def test_each_tokens_loss_carries_no_gradient() -> None:
    _, losses = linear_cross_entropy(*inputs())
    assert not losses.requires_grad
