"""InternLM2 and InternLM2.5 (https://arxiv.org/abs/2403.17297): a LLaMA whose queries, keys and values are in one."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, refuse_mup, require_rope
from fm9g.convert.families.fused import QKV
from fm9g.convert.families.internlm import attention_biases
from fm9g.convert.layouts import Layout, Layouts, renamed
from fm9g.convert.orders import head_by_head
from fm9g.model.config import ModelConfig

LAYOUTS = Layouts(
    ends=renamed(
        {
            "input_embedding": "model.tok_embeddings",
            "encoder.output_layernorm": "model.norm",
            "lm_head": "output",
        }
    ),
    layers="model.layers.",
    block=(
        *renamed(
            {
                "self_att.layernorm_before_attention": "attention_norm",
                "self_att.self_attention.attention_out": "attention.wo",
                "ffn.layernorm_before_ffn": "ffn_norm",
                "ffn.ffn.w_in.w_0": "feed_forward.w1",
                "ffn.ffn.w_in.w_1": "feed_forward.w3",
                "ffn.ffn.w_out": "feed_forward.w2",
            }
        ),
        Layout(("attention.wqkv",), QKV, head_by_head),
    ),
)
UNREAD = ("head_dim", "rope_parameters")  # usual keys that its code does not read


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    own = attention_biases(values, where)
    config = read_decoder(values, where, None, NEUTRAL, unread=UNREAD, **own)
    require_rope(config, ("", "linear", "dynamic"), FAMILY, where)
    return config


FAMILY = Family(
    architecture="InternLM2ForCausalLM",
    model_type=None,
    features=frozenset(),
    read_config=_read,
    write_config=None,
    layouts=LAYOUTS,
    also=frozenset({"qkv_bias", "out_bias"}),
    names_rope=False,
    models="InternLM2, InternLM2.5",
    templates=("internlm2",),
)
