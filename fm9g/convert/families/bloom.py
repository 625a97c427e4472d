"""Bloom (https://arxiv.org/abs/2211.05100): ALiBi, layer norms, biases everywhere, no gate in the feed-forward."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import Family, read_decoder, refuse_mup
from fm9g.convert.families.fused import QKV
from fm9g.convert.layouts import Layout, Layouts, renamed
from fm9g.convert.orders import head_by_head
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

LAYOUTS = Layouts(
    ends=renamed(
        {
            "input_embedding": "transformer.word_embeddings",
            "embedding_norm": "transformer.word_embeddings_layernorm",
            "encoder.output_layernorm": "transformer.ln_f",
            "lm_head": "lm_head",
        }
    ),
    layers="transformer.h.",
    block=(
        *renamed(
            {
                "self_att.layernorm_before_attention": "input_layernorm",
                "self_att.self_attention.attention_out": "self_attention.dense",
                "ffn.layernorm_before_ffn": "post_attention_layernorm",
                "ffn.ffn.w_in.w_0": "mlp.dense_h_to_4h",
                "ffn.ffn.w_out": "mlp.dense_4h_to_h",
            }
        ),
        Layout(("self_attention.query_key_value",), QKV, head_by_head),
    ),
    prefix="transformer.",  # which bigscience's own files leave out
)
# Older spellings are read, and ours is written.
SPELLINGS = {"hidden_size": "n_embed", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
NAMES = {"rms_norm_eps": "layer_norm_epsilon", "max_position_embeddings": "seq_length"}
ASSUMED = {"rms_norm_eps": 1e-5, "tie_word_embeddings": True}
UNREAD = ("num_key_value_heads", "head_dim")  # usual keys that its code does not read
NEUTRAL = {"apply_residual_connection_post_layernorm": False, "is_causal": True, "quantization_config": None}
OWN: dict[str, Any] = {
    **{"norm": "layer", "embedding_norm": True, "position": "alibi", "ffn_gated": False},
    **{"qkv_bias": True, "out_bias": True, "ffn_bias": True},
}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    for usual, short in SPELLINGS.items():
        if values.get(short) is not None and values.setdefault(usual, values[short]) != values[short]:
            raise UserError(f"{where}: {short} is {values[short]!r}, but {usual} {values[usual]!r}")
    width = values.get("hidden_size")
    fixed = {"intermediate_size": 4 * width if isinstance(width, int) else width, "hidden_act": "gelu_pytorch_tanh"}
    if values.get("slow_but_exact") and values.get("pretraining_tp", 1) not in (None, 1):
        raise UserError(
            f"{where}: slow_but_exact with pretraining_tp {shown(values['pretraining_tp'])} is not supported: "
            "transformers leaves out biases then"
        )
    return read_decoder({**values, **fixed}, where, ASSUMED, NEUTRAL, NAMES, unread=UNREAD, **OWN)


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    usual: dict[str, Any] = {"norm": "layer", "activate_fn": "gelu_tanh", "num_kv_heads": config.num_heads}
    usual |= {"dim_ff": 4 * config.dim_model, "dim_head": config.dim_model // config.num_heads}
    for name, value in usual.items():
        if getattr(config, name) != value:
            raise UserError(f"{where}: {name} must be {value} for a Bloom of this shape, not {getattr(config, name)}")
    return {
        "model_type": "bloom",
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "hidden_size": config.dim_model,
        "initializer_range": config.init_std,
        "layer_norm_epsilon": config.eps,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "seq_length": config.max_length,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


FAMILY = Family(
    architecture="BloomForCausalLM",
    model_type="bloom",
    features=frozenset(OWN),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS,
    names_rope=False,
    models="Bloom, BloomZ, BELLE-7B",
    templates=("belle",),
    refused=NEUTRAL,
)
