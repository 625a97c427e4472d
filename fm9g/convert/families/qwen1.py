"""Qwen (https://arxiv.org/abs/2309.16609), the first: a LLaMA with biases on queries, keys and values.

Beyond seq_length, for which it was trained, its code changes RoPE's base (use_dynamic_ntk) and lengthens queries
(use_logn_attn); up to it, neither. So ours is a model of that length.
"""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, read_flag, refuse_mup
from fm9g.convert.families.fused import QKV
from fm9g.convert.hf_rope import SHARE
from fm9g.convert.layouts import Layout, Layouts, renamed
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig

LAYOUTS = Layouts(
    ends=renamed(
        {
            "input_embedding": "transformer.wte",
            "encoder.output_layernorm": "transformer.ln_f",
            "lm_head": "lm_head",
        }
    ),
    layers="transformer.h.",
    block=(
        *renamed(
            {
                "self_att.layernorm_before_attention": "ln_1",
                "self_att.self_attention.attention_out": "attn.c_proj",
                "ffn.layernorm_before_ffn": "ln_2",
                "ffn.ffn.w_in.w_0": "mlp.w2",
                "ffn.ffn.w_in.w_1": "mlp.w1",
                "ffn.ffn.w_out": "mlp.c_proj",
            }
        ),
        Layout(("attn.c_attn",), QKV),
    ),
)
NAMES = {
    "head_dim": "kv_channels",
    "max_position_embeddings": "seq_length",
    "rms_norm_eps": "layer_norm_epsilon",
    "rope_theta": "rotary_emb_base",
}
# The usual keys that its code does not read: what they say is of no other model.
UNREAD = ("hidden_act", "num_key_value_heads")
REFUSED: dict[str, Any] = {**NEUTRAL, "rope_scaling": None, "rope_parameters": None}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    both = values.get("intermediate_size")
    _check_heads(values, where)
    fixed = {SHARE: values.get("rotary_pct")}
    if type(both) is int:  # of the gate and of what it gates
        fixed["intermediate_size"] = both // 2
    # those of queries, keys and values are always there
    others = not read_flag(values, "no_bias", True, where)
    own = {"qkv_bias": True, "out_bias": others, "ffn_bias": others}
    return read_decoder({**values, **fixed}, where, None, REFUSED, NAMES, share=1.0, unread=UNREAD, **own)


def _check_heads(values: dict[str, Any], where: str) -> None:
    """Refuse heads that its code, which cuts queries, keys and values by hidden_size, could not run."""
    width, heads, channels = (values.get(key) for key in ("hidden_size", "num_attention_heads", "kv_channels"))
    if type(width) is type(heads) is type(channels) is int and channels * heads != width:
        raise UserError(
            f"{where}: kv_channels ({channels}) * num_attention_heads ({heads}) is not hidden_size ({width})"
        )


FAMILY = Family(
    architecture="QWenLMHeadModel",
    model_type=None,
    features=frozenset({"qkv_bias"}),
    read_config=_read,
    write_config=None,
    layouts=LAYOUTS,
    also=frozenset({"rotary_dim", "out_bias", "ffn_bias"}),
    names_rope=False,
    models="Qwen (first version): 1.8B, 7B, 14B, 72B",
    templates=("qwen", "chatml"),
    refused=REFUSED,
)
