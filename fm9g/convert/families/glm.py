"""GLM-4 (https://arxiv.org/abs/2406.12793) as transformers has it, and GLM-4-0414 with norms after each branch, too.

The first half of each head is rotated, neighbours with each other.
"""

from __future__ import annotations

from typing import Any

from fm9g.convert import hf_rope
from fm9g.convert.families.family import (
    NEUTRAL,
    Family,
    read_decoder,
    read_flag,
    refuse_mup,
    without,
    written_decoder,
)
from fm9g.convert.families.fused import FUSED_GATE, QKV
from fm9g.convert.families.llama import LAYOUTS as LLAMA
from fm9g.convert.layouts import Layout, renamed
from fm9g.convert.orders import interleaved_keys, interleaved_queries
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig

LAYOUTS = LLAMA.replacing(
    Layout(("self_attn.q_proj",), QKV[:1], interleaved_queries),
    Layout(("self_attn.k_proj",), QKV[1:2], interleaved_keys),
    FUSED_GATE,
)
AFTER = renamed(
    {
        "self_att.layernorm_after_attention": "post_self_attn_layernorm",
        "ffn.layernorm_after_ffn": "post_mlp_layernorm",
    }
)
ASSUMED = {
    **{"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1.5625e-07},
    **{"max_position_embeddings": 131072, "attention_bias": True},
}
REFUSED = without(NEUTRAL, "attention_bias")
SHARE = 0.5  # of a config.json that says nothing of partial_rotary_factor


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    return _decoder(values, FAMILY, where)


def _read_0414(values: dict[str, Any], where: str) -> ModelConfig:
    return _decoder(values, GLM4, where, branch_norm=True)


def _decoder(values: dict[str, Any], family: Family, where: str, **own: Any) -> ModelConfig:
    refuse_mup(values, family.architecture, where)
    for spelling in (values, values.get("rope_parameters"), values.get("rope_scaling")):
        if isinstance(spelling, dict) and spelling.get(hf_rope.SHARE, SHARE) is None:  # which rotates whole heads there
            raise UserError(f"{where}: {hf_rope.SHARE} must be a share above 0 and up to 1, or left out, not null")
    bias = read_flag(values, "attention_bias", True, where)
    return read_decoder(values, where, ASSUMED, REFUSED, share=SHARE, qkv_bias=bias, **own)


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    values = {"model_type": "glm", **written_decoder(config), "head_dim": config.dim_head}
    return {**values, "attention_bias": config.qkv_bias}


def _write_0414(config: ModelConfig, where: str) -> dict[str, Any]:
    return {**_write(config, where), "model_type": "glm4"}


FAMILY = Family(
    architecture="GlmForCausalLM",
    model_type="glm",
    features=frozenset({"rotary_dim", "qkv_bias"}),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS,
    in_part=True,
    models="GLM-4-9B (-hf), GLM-Edge",
    refused=REFUSED,
)
GLM4 = Family(
    architecture="Glm4ForCausalLM",
    model_type="glm4",
    features=frozenset({"rotary_dim", "branch_norm"}),
    read_config=_read_0414,
    write_config=_write_0414,
    layouts=LAYOUTS.replacing(*AFTER),
    also=frozenset({"qkv_bias"}),
    in_part=True,
    models="GLM-4-0414, GLM-Z1",
    refused=REFUSED,
)
