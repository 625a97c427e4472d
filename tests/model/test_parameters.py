"""The table of a model's tensors says what the modules make."""

from __future__ import annotations

from typing import Any

import pytest

from fm9g.model.parameters import count, num_parameters, parameters
from tests.model.pairs import config, decoder

pytestmark = pytest.mark.usefixtures("single_rank")

SHAPES: list[dict[str, Any]] = [
    {},
    {"tie_lm_head": True},
    {"num_kv_heads": 1},
    {"num_kv_heads": 4},
    {"dim_head": 6},
    {"num_layers": 1, "vocab_size": 7},
    {"qkv_bias": True, "num_kv_heads": 1},
    {"scale": True, "scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 8},
    {"norm": "layer", "embedding_norm": True, "position": "alibi", "ffn_gated": False, "ffn_bias": True},
    {"norm": "rms_1p", "branch_norm": True, "qk_norm": True},
    {"norm": "layer", "branch_norm": True, "qk_norm": True, "qkv_bias": True, "out_bias": True, "tie_lm_head": True},
    {"head_norm": True, "rotary_dim": 4, "sliding_window": 3, "sliding_layers": (1,)},
    {"num_experts": 4, "experts_per_token": 2},
    {"num_experts": 3, "experts_per_token": 1, "dim_expert": 20, "dim_shared_expert": 28, "qkv_bias": True},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_names_and_shapes_are_the_modules(changes: dict[str, Any]) -> None:
    model = decoder(config(**changes))
    made = {name: tuple(value._original_shape) for name, value in model.named_parameters()}
    assert {parameter.name: parameter.shape for parameter in parameters(model.config)} == made
    assert num_parameters(model.config) == sum(value.numel() for value in model.state_dict().values())


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_roles(changes: dict[str, Any]) -> None:
    """By what a tensor is: only weights within blocks that multiply hidden states are matrices."""
    for parameter in parameters(config(**changes)):
        one_axis = "norm" in parameter.name or parameter.name.endswith(".bias")
        expected = {"input_embedding.weight": "embedding", "lm_head.weight": "head"}
        assert parameter.role == expected.get(parameter.name, "vector" if one_axis else "matrix")


def test_counts_without_some_roles() -> None:
    table = parameters(config())
    assert count(table) - count(table, without=("embedding", "head")) == 2 * 61 * 32
    assert count(table, without=("embedding", "head", "matrix")) == (2 * 3 + 1) * 32
