"""Soft caps of attention's scores: in a step of generation, and where activations are computed again."""

from __future__ import annotations

import pytest
import torch

from fm9g.model.kernels import cached, chunked
from fm9g.model.kernels.cached import cached_attention
from fm9g.model.kernels.kernel import Scores
from tests.model.pairs import LENGTHS, config, decoder, gradients, tokens_and_targets


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shortest", [1, 200])
@pytest.mark.parametrize("at_once", [cached._AT_ONCE, 1])
def test_a_new_token_is_attended_to_as_exactly_as_its_dtype_can_tell(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, shortest: int, at_once: int
) -> None:
    """Scores that are about as large as the cap, rows of unequal lengths or not, all at once or each alone. What comes
    out is rounded once (half of eps), after float32 sums (1e-5)."""
    monkeypatch.setattr(cached, "_AT_ONCE", at_once)
    torch.manual_seed(0)
    rows, heads, groups, longest, dim = 3, 6, 2, 200, 64
    query, scores = (8 * torch.randn(rows, heads, dim)).to(dtype), Scores(dim**-0.5, softcap=10.0)
    keys, values = (torch.randn(rows, groups, longest, dim).to(dtype) for _ in range(2))
    lengths = torch.tensor([longest, shortest, longest])
    visible = torch.arange(longest) < lengths[:, None]
    found = cached_attention(query, keys, values, None if shortest == longest else visible, scores)
    exact_keys, exact_values = (x.double().repeat_interleave(heads // groups, 1) for x in (keys, values))
    scored = 10 * (torch.einsum("rhd,rhld->rhl", query.double(), exact_keys) * scores.scale / 10).tanh()
    weights = scored.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
    expected = torch.einsum("rhl,rhld->rhd", weights, exact_values)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps / 2, atol=1e-5)


@pytest.mark.usefixtures("single_rank")
def test_recomputed_activations_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of queries are computed again, in blocks that are."""
    monkeypatch.setattr(chunked, "CHUNK", 4)
    tokens, targets = tokens_and_targets(61)
    found = []
    for use_checkpoint in (False, True):
        model = decoder(config(attention_softcap=2.0, sliding_window=6), use_checkpoint=use_checkpoint)
        assert model.encoder.kernel_name == "chunked"
        total, _ = model.loss(tokens, targets, model.context(LENGTHS))
        total.backward()
        found.append((total.item(), gradients(model)))
    (plain, expected), (again, recomputed) = found
    assert plain == again
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in expected.items())
