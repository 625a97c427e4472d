"""LLaMA (https://arxiv.org/abs/2302.13971, 2307.09288, 2407.21783): what our model is, under other names.

Yi and DeepSeek's dense models are of this architecture.
"""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, read_flag, without, written_decoder
from fm9g.convert.layouts import Layouts, renamed
from fm9g.errors import UserError
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
BIASES = ("attention_bias", "mlp_bias")
REFUSED = without(NEUTRAL, *BIASES)


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    attention, ffn = (read_flag(values, key, False, where) for key in BIASES)
    return read_decoder(values, where, None, REFUSED, qkv_bias=attention, out_bias=attention, ffn_bias=ffn)


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    if config.qkv_bias != config.out_bias:
        raise UserError(f"{where}: Llama has biases of all of attention's projections or of none")
    return {
        "model_type": "llama",
        **written_decoder(config),
        "attention_bias": config.out_bias,
        "head_dim": config.dim_head,
        "mlp_bias": config.ffn_bias,
    }


FAMILY = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    features=frozenset(),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS,
    also=frozenset({"qkv_bias", "out_bias", "ffn_bias"}),
    models="Llama 1, 2, 3 to 3.3, Yi, DeepSeek LLM, BELLE-LLaMA, Vicuna, Ziya",
    templates=("llama2", "llama2-zh", "llama3", "yi", "deepseek", "belle", "vicuna", "ziya"),
    refused=REFUSED,
)
