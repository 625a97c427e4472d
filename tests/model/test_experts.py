"""Layers of experts compute what is written out for every expert and token, whatever is chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g import runtime
from fm9g.errors import UserError
from fm9g.model.balance import Balance
from fm9g.model.cache import Cache
from fm9g.model.cut import check_cut
from fm9g.model.experts import Experts
from fm9g.model.grouped import GroupedLinear, Groups, kernel_is_for, products, sums_of_products
from fm9g.runtime import bmt
from tests.model.pairs import LENGTHS, config, decoder, gradients, tokens_and_targets

pytestmark = pytest.mark.usefixtures("single_rank")

MIXTURE: dict[str, Any] = {"num_experts": 5, "experts_per_token": 2, "dim_expert": 24}
KINDS: dict[str, dict[str, Any]] = {
    "weights as they are": MIXTURE,
    "weights that sum to 1": MIXTURE | {"norm_expert_weights": True},
    "a shared expert": MIXTURE | {"dim_shared_expert": 20},
    "one of two, gelu": MIXTURE | {"num_experts": 2, "experts_per_token": 1, "activate_fn": "gelu"},
    "all of them": MIXTURE | {"experts_per_token": 5},
}
TOKENS = 37


def layer(**settings: Any) -> Experts:
    torch.manual_seed(0)
    made = Experts(config(**settings), torch.float32)
    bmt.init_parameters(made)
    return made


def written_out(weights: dict[str, Tensor], x_TD: Tensor, settings: dict[str, Any]) -> Tensor:
    """Every expert of every token, each times its weight, which is 0 where it is not chosen."""
    shape = config(**settings)
    activate: Any = {"silu": F.silu, "gelu": F.gelu}[shape.activate_fn]
    scores_TE = (x_TD @ weights["router.weight"].T).softmax(-1)
    kth_T1 = scores_TE.sort(-1, descending=True).values[:, shape.experts_per_token - 1, None]
    weights_TE = scores_TE * (scores_TE >= kth_T1)
    if shape.norm_expert_weights:
        weights_TE = weights_TE / weights_TE.sum(-1, keepdim=True)
    parts = {
        name: weights[f"experts.{name}.weight"].chunk(shape.num_experts) for name in ("w_in.w_0", "w_in.w_1", "w_out")
    }
    outputs = [
        (activate(x_TD @ w_0.T) * (x_TD @ w_1.T)) @ w_out.T for w_0, w_1, w_out in zip(*parts.values(), strict=True)
    ]
    y_TD = torch.einsum("te,etd->td", weights_TE, torch.stack(outputs))
    if shape.dim_shared_expert:
        w_0, w_1, w_out = (weights[f"shared_expert.{name}.weight"] for name in ("w_in.w_0", "w_in.w_1", "w_out"))
        shared_TD = (activate(x_TD @ w_0.T) * (x_TD @ w_1.T)) @ w_out.T
        y_TD = y_TD + (x_TD @ weights["shared_expert_gate.weight"].T).sigmoid() * shared_TD
    return y_TD


def assert_close(found: Tensor, expected: Tensor, what: str = "") -> None:
    """To 1e-5 of the largest element: float32, in another order of sums."""
    assert (found.double().cpu() - expected).abs().max() < 1e-5 * expected.abs().max(), what


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_outputs_and_gradients_are_those_of_all_experts_written_out(settings: dict[str, Any]) -> None:
    made, x_TD = layer(**settings), torch.randn(TOKENS, 32, device=runtime.device(), requires_grad=True)
    factor = torch.randn(TOKENS, 32, dtype=torch.float64)
    y_TD, _ = made(x_TD, decoder(config()).context([TOKENS]))
    (y_TD * factor.to(y_TD)).sum().backward()
    weights = {name: value.detach().double().cpu().requires_grad_() for name, value in made.state_dict().items()}
    exact_TD = x_TD.detach().double().cpu().requires_grad_()
    expected_TD = written_out(weights, exact_TD, settings)
    (expected_TD * factor).sum().backward()
    assert_close(y_TD.detach(), expected_TD.detach())
    expected = {name: value.grad for name, value in (*weights.items(), ("x", exact_TD))}
    for name, value in (*made.named_parameters(), ("x", x_TD)):
        assert_close(value.grad.view(expected[name].shape), expected[name], name)


def test_an_expert_without_tokens_has_a_gradient_of_zero() -> None:
    """Not none: every rank sums the gradients of the same tensors, whatever its tokens are."""
    model = decoder(config(**MIXTURE, num_layers=1))
    router = "encoder.layers.0.ffn.ffn.router.weight"
    weights = model.state_dict()
    weights[router] = torch.zeros_like(weights[router])  # of equal scores, topk takes the same of every token
    model.load_state_dict(weights)
    tokens, targets = tokens_and_targets(61)
    balance = Balance()
    context = dataclasses.replace(model.context(LENGTHS), balance=balance)
    model.loss(tokens, targets, context)[0].backward()
    assert balance.sums is not None
    used = (balance.sums[0] > 0).tolist()
    assert sum(used) == 2
    for name, gradient in gradients(model).items():
        if ".experts." in name:
            assert [bool(part.abs().max() > 0) for part in gradient.chunk(5)] == used, name


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_packed_document_is_what_it_is_alone(settings: dict[str, Any]) -> None:
    model = decoder(config(**settings))
    tokens, _ = tokens_and_targets(61)
    packed = model(tokens, model.context(LENGTHS)).detach()
    alone = [model(document, model.context([len(document)])).detach() for document in tokens.split(LENGTHS)]
    assert_close(packed, torch.cat(alone).double().cpu())


def test_recomputed_activations_give_the_same_bits() -> None:
    tokens, targets = tokens_and_targets(61)
    found = []
    for use_checkpoint in (False, True):
        model = decoder(config(**MIXTURE, dim_shared_expert=20), use_checkpoint=use_checkpoint)
        balance = Balance()
        total, _ = model.loss(tokens, targets, dataclasses.replace(model.context(LENGTHS), balance=balance))
        loss = total + 3 * balance.loss(2)
        loss.backward()
        found.append((loss.item(), gradients(model)))
    (plain, expected), (again, recomputed) = found
    assert plain == again
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in expected.items())


def test_tokens_after_a_cache_are_those_of_the_whole_text() -> None:
    model = decoder(config(**MIXTURE))
    tokens, _ = tokens_and_targets(61, [12])
    with torch.no_grad():
        whole = model(tokens, model.context([12]))
        cache = Cache(1)
        steps = [model(tokens[:9], model.context([9], cache))]
        steps += [model(tokens[i : i + 1], model.context([1], cache)) for i in range(9, 12)]
    assert_close(torch.cat(steps), whole.double().cpu())


def test_balance_is_least_where_all_experts_are_chosen_alike() -> None:
    even = torch.full((8, 4), 0.25)
    chosen = torch.tensor([[0, 1], [2, 3]] * 4)
    balance = Balance()
    balance.sums = balance.of_layer(even, chosen)
    assert balance.loss(2).item() == 2
    uneven = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).expand(8, 4)
    balance.sums = balance.of_layer(uneven, torch.tensor([[0, 1]] * 8))
    assert balance.loss(2).item() == pytest.approx(4 * (0.7 + 0.1))  # f = 1, 1, 0, 0


def test_what_is_not_counted_does_not_show_in_the_balance() -> None:
    scores, chosen = torch.rand(9, 4).softmax(-1), torch.randint(4, (9, 1))
    counted = torch.arange(9) < 6
    some, all_of_them = Balance(counted), Balance()
    assert torch.equal(some.of_layer(scores, chosen), all_of_them.of_layer(scores[:6], chosen[:6]))
    none = Balance(torch.zeros(9, dtype=torch.bool))
    none.sums = none.of_layer(scores, chosen)
    assert none.loss(1).item() == 0


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped kernel")
def test_one_kernel_for_all_groups_is_the_loop_over_them() -> None:
    """In bf16, where it is used, with groups of no rows; on a GPU tests/gpu has it in a model."""
    groups = Groups(torch.tensor([8, 8, 19, 24, 24], dtype=torch.int32))
    x, y = torch.randn(24, 16).bfloat16(), torch.randn(24, 32).bfloat16()
    matrices = torch.randn(5, 32, 16).bfloat16().transpose(1, 2)
    for kernel, arguments in ((products, (x, matrices)), (sums_of_products, (y, x))):
        one, loop = (kernel(*arguments, groups, one_kernel) for one_kernel in (True, False))  # type: ignore[operator]
        torch.testing.assert_close(one, loop, rtol=2**-7, atol=2**-5)
    assert not sums_of_products(y, x, groups, True)[1].any()


@pytest.mark.parametrize(
    ("version", "capability", "runs"),
    [
        *(("2.8.0+cu128", capability, capability == (9, 0)) for capability in ((8, 0), (8, 9), (9, 0), (10, 0))),
        *(("2.9.0", capability, capability != (7, 5)) for capability in ((7, 5), (8, 0), (9, 0), (12, 0))),
        ("2.13.0a0+git1234567", (8, 6), True),
    ],
)
def test_old_torchs_grouped_kernel_is_hoppers_alone(version: str, capability: tuple[int, int], runs: bool) -> None:
    assert kernel_is_for(version, capability) == runs


def test_a_grouped_layers_gradients_are_numerical_ones() -> None:
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, 3), (3 * 2, 3)))
    groups = Groups(torch.tensor([2, 2, 7], dtype=torch.int32))
    assert torch.autograd.gradcheck(lambda x, weight: GroupedLinear.apply(x, weight, groups), (x, weight))


def test_tensor_parallelism_does_not_cut_experts() -> None:
    shape = config(**MIXTURE)
    check_cut(shape, 1)
    with pytest.raises(UserError, match=r"tp_size 2: a model of experts \(num_experts 5\) needs tp_size 1"):
        check_cut(shape, 2)
