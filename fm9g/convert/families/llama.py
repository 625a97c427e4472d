"""LLaMA (https://arxiv.org/abs/2302.13971, 2307.09288, 2407.21783): what our model is, under other names."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import Family, read_decoder, written_decoder
from fm9g.convert.layouts import Layouts, renamed
from fm9g.model.config import ModelConfig

LAYOUTS = Layouts(
    ends=renamed(
        {
            "input_embedding": "model.embed_tokens",
            "encoder.output_layernorm": "model.norm",
            "lm_head": "lm_head",
        }
    ),
    layers="model.layers.",
    block=renamed(
        {
            "self_att.layernorm_before_attention": "input_layernorm",
            "self_att.self_attention.project_q": "self_attn.q_proj",
            "self_att.self_attention.project_k": "self_attn.k_proj",
            "self_att.self_attention.project_v": "self_attn.v_proj",
            "self_att.self_attention.attention_out": "self_attn.o_proj",
            "ffn.layernorm_before_ffn": "post_attention_layernorm",
            "ffn.ffn.w_in.w_0": "mlp.gate_proj",
            "ffn.ffn.w_in.w_1": "mlp.up_proj",
            "ffn.ffn.w_out": "mlp.down_proj",
        }
    ),
)


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    return {
        "model_type": "llama",
        **written_decoder(config),
        "attention_bias": False,
        "head_dim": config.dim_head,
        "mlp_bias": False,
    }


FAMILY = Family("LlamaForCausalLM", "llama", frozenset(), read_decoder, _write, LAYOUTS)
