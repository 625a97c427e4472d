"""The decoder computes what transformers' models of the same weights compute: logits, loss and every gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.decoder import Decoder
from tests.model.pairs import (
    LENGTHS,
    config,
    decoder,
    gradients,
    their_logits,
    their_name,
    theirs,
    tokens_and_targets,
)

pytestmark = pytest.mark.usefixtures("single_rank")

LLAMAS: dict[str, dict[str, Any]] = {
    "multi-head": {"num_kv_heads": 4},
    "grouped queries": {"num_kv_heads": 2},
    "one key-value head": {"num_kv_heads": 1},
    "tied head": {"tie_lm_head": True},
    "gelu": {"activate_fn": "gelu"},
    "other eps and base": {"eps": 1e-3, "base": 500.0},
}

if "head_dim" in transformers.LlamaConfig().to_dict():  # from 4.46 on
    LLAMAS["wide heads"] = {"dim_head": 16}


def assert_close(value: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest element."""
    difference = (value.float().cpu() - expected.detach()).abs().max() / expected.detach().abs().max()
    assert difference < 1e-5, difference


def assert_parity(model: Decoder, other: Any, lengths: list[int]) -> None:
    tokens, targets = tokens_and_targets(model.config.vocab_size, lengths)
    expected_TV = their_logits(other, tokens, lengths)
    assert_close(model(tokens, model.context(lengths)).detach(), expected_TV)

    losses_T = F.cross_entropy(expected_TV, targets.cpu(), reduction="none")
    losses_T.sum().backward()
    total, each_T = model.loss(tokens, targets, model.context(lengths))
    assert_close(total.detach(), losses_T.sum())
    assert_close(each_T, losses_T)
    total.backward()
    reference = dict(other.named_parameters())
    mine = gradients(model)
    assert len(mine) == len(reference)
    for name, gradient in mine.items():
        assert_close(gradient, reference[their_name(name)].grad)


@pytest.mark.parametrize("flash", ["cuda", "none"])
@pytest.mark.parametrize("settings", LLAMAS.values(), ids=LLAMAS.keys())
def test_llama(settings: dict[str, Any], flash: str) -> None:
    model = decoder(config(**settings), flash=flash)
    assert_parity(model, theirs(model), LENGTHS)


@pytest.mark.parametrize("tie_lm_head", [False, True])
def test_biases_of_queries_keys_and_values_are_qwen2s(tie_lm_head: bool) -> None:
    model = decoder(config(qkv_bias=True, tie_lm_head=tie_lm_head))
    assert_parity(model, theirs(model, "Qwen2", use_sliding_window=False), LENGTHS)


@pytest.mark.skipif(not hasattr(transformers, "GraniteForCausalLM"), reason="in transformers from 4.45 on")
@pytest.mark.parametrize("tie_lm_head", [False, True])
def test_mup_is_granite(tie_lm_head: bool) -> None:
    """MiniCPM's scaling in the terms of IBM's Granite models."""
    ours = config(scale=True, scale_emb=12.0, scale_depth=1.4, dim_model_base=8, tie_lm_head=tie_lm_head)
    model = decoder(ours)
    granite = theirs(
        model,
        "Granite",
        embedding_multiplier=12.0,
        residual_multiplier=1.4 / math.sqrt(3),
        logits_scaling=32 / 8,
        attention_multiplier=1 / math.sqrt(8),
    )
    assert_parity(model, granite, LENGTHS)


def test_linear_rope_scaling() -> None:
    model = decoder(config(rope_scaling_type="linear", rope_scaling_factor=4.0))
    assert_parity(
        model, theirs(model, rope_scaling={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}), [40]
    )


def test_dynamic_rope_scaling() -> None:
    """At its full length; transformers stretches by the length of the text, a packed strip by max_length."""
    model = decoder(config(rope_scaling_type="dynamic", rope_scaling_factor=2.0, orig_max_length=16, max_length=40))
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert_parity(model, theirs(model, rope_scaling=scaling, max_position_embeddings=16), [40])


def test_rope_scaling_changes_the_output() -> None:
    """So that the two tests above cannot pass with a scaling that both sides ignore."""
    tokens, _ = tokens_and_targets(61, [40])
    shared = {"max_length": 40, "orig_max_length": 16, "rope_scaling_factor": 2.0}
    models = [decoder(config(**shared, rope_scaling_type=kind)) for kind in ("", "linear", "dynamic")]
    plain, linear, dynamic = (model(tokens, model.context([40])).detach() for model in models)
    assert (plain - linear).abs().max() > 0.01
    assert (plain - dynamic).abs().max() > 0.01


@pytest.mark.parametrize("flash", ["cuda", "none"])
def test_a_document_does_not_see_its_neighbours(flash: str) -> None:
    """Packed together or one at a time: the same logits."""
    model = decoder(config(), flash=flash)
    tokens, _ = tokens_and_targets(61)
    together = model(tokens, model.context(LENGTHS)).detach()
    apart = torch.cat([model(piece, model.context([len(piece)])).detach() for piece in tokens.split(LENGTHS)])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    changed = tokens.clone()
    changed[: LENGTHS[0]] = (tokens[: LENGTHS[0]] + 1) % 61
    later = model(changed, model.context(LENGTHS)).detach()
    assert torch.equal(together[LENGTHS[0] :], later[LENGTHS[0] :])


def test_a_token_does_not_see_what_follows() -> None:
    model = decoder(config())
    tokens, _ = tokens_and_targets(61, [12])
    before = model(tokens, model.context([12])).detach()
    tokens[7:] = (tokens[7:] + 1) % 61
    after = model(tokens, model.context([12])).detach()
    torch.testing.assert_close(before[:7], after[:7], rtol=1e-6, atol=1e-6)
    assert (before[7:] - after[7:]).abs().min(0).values.max() > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_use_checkpoint_changes_nothing(dtype: str) -> None:
    tokens, targets = tokens_and_targets(61)
    results = []
    for use_checkpoint in (False, True):
        model = decoder(config(dtype=dtype), use_checkpoint=use_checkpoint)
        total, _ = model.loss(tokens, targets, model.context(LENGTHS))
        total.backward()
        results.append({"loss": total.detach().cpu(), **gradients(model)})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_dropout_is_for_training_only(dropout_p: float) -> None:
    model = decoder(config(dropout_p=dropout_p), use_checkpoint=True)
    tokens, _ = tokens_and_targets(61)
    first, second = (model(tokens, model.context(LENGTHS)).detach() for _ in range(2))
    assert torch.equal(first, second) == (dropout_p == 0)
    model.eval()
    expected = decoder(config())(tokens, model.context(LENGTHS)).detach()
    assert torch.equal(model(tokens, model.context(LENGTHS)).detach(), expected)


def test_bf16_is_as_close_to_float32_as_transformers_is() -> None:
    """Both round after every operation; how far that leads is a property of the model, not of the library."""
    tokens, targets = tokens_and_targets(61)
    model = decoder(config(dtype="bf16"))
    other = theirs(model)
    exact = their_logits(other, tokens).detach()
    exact_loss = F.cross_entropy(exact, targets.cpu(), reduction="sum")
    mine = (model(tokens, model.context(LENGTHS)).detach().float().cpu() - exact).pow(2).mean().sqrt()
    their_error = (their_logits(other.bfloat16(), tokens).detach().float() - exact).pow(2).mean().sqrt()
    assert 0 < mine < 1.25 * their_error
    total, _ = model.loss(tokens, targets, model.context(LENGTHS))
    assert total.item() == pytest.approx(exact_loss.item(), rel=5e-3)


def test_loss_and_logits_agree_for_any_size_of_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(config())
    tokens, targets = tokens_and_targets(61)
    logits = model(tokens, model.context(LENGTHS)).detach()
    monkeypatch.setattr("fm9g.model.cross_entropy.CHUNK_LOGITS", 61 * 4)
    total, _ = model.loss(tokens, targets, model.context(LENGTHS))
    torch.testing.assert_close(total.detach(), F.cross_entropy(logits, targets, reduction="sum"))
