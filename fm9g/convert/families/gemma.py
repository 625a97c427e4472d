"""Gemma (https://arxiv.org/abs/2403.08295) and Gemma 2 (2408.00118): norms of 1 + weight, embeddings times the root of
their width, and in the second soft caps, norms after each branch and windows in every other layer."""

from __future__ import annotations

import math
import struct
from typing import Any

from fm9g.convert.families.family import (
    NEUTRAL,
    Family,
    read_decoder,
    refuse_mup,
    without,
    written_decoder,
)
from fm9g.convert.families.llama import LAYOUTS
from fm9g.convert.families.windows import SLIDING, layer_types, read_windows
from fm9g.convert.layouts import renamed
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

NORMS = {
    "self_att.layernorm_after_attention": "post_attention_layernorm",
    "ffn.layernorm_before_ffn": "pre_feedforward_layernorm",
    "ffn.layernorm_after_ffn": "post_feedforward_layernorm",
}
LAYOUTS_2 = LAYOUTS.replacing(*renamed(NORMS))
ASSUMED = {
    **{"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
    **{"num_key_value_heads": 16, "max_position_embeddings": 8192},
}
ASSUMED_2 = {**ASSUMED, "num_key_value_heads": 4}
REFUSED: dict[str, Any] = {**NEUTRAL, "use_bidirectional_attention": False}
REFUSED_2 = without(REFUSED, "sliding_window")
# Theirs, ours, and the value where it is left out; null is none
CAPS = (("attn_logit_softcapping", "attention_softcap", 50.0), ("final_logit_softcapping", "logit_softcap", 30.0))
WINDOW, WIDTH = 4096, 256  # sliding_window and query_pre_attn_scalar that are left out


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    return _decoder(values, FAMILY, where, ASSUMED, REFUSED)


def _read_2(values: dict[str, Any], where: str) -> ModelConfig:
    own: dict[str, Any] = {}
    for theirs, ours, usual in CAPS:
        cap = values.get(theirs, usual)
        if cap == 0:
            raise UserError(f"{where}: {theirs} must be a positive number, or null for none, not {shown(cap)}")
        own[ours] = 0.0 if cap is None else cap
    width = values.get("query_pre_attn_scalar") or WIDTH
    if type(width) not in (int, float) or width <= 0:
        raise UserError(f"{where}: query_pre_attn_scalar must be a positive number, not {shown(width)}")
    if width != (values.get("head_dim") or ASSUMED["head_dim"]):
        own["attention_scale"] = width**-0.5
    said = {"sliding_window": WINDOW, **values}
    if said["sliding_window"] is None and SLIDING in (values.get("layer_types") or [SLIDING]):
        raise UserError(f"{where}: sliding_window must be a positive whole number for a Gemma 2, not None")
    own |= read_windows(said, lambda layer: layer % 2 == 0, where)
    return _decoder(values, GEMMA2, where, ASSUMED_2, REFUSED_2, branch_norm=True, **own)


def _decoder(
    values: dict[str, Any], family: Family, where: str, assumed: dict[str, Any], refused: dict[str, Any], **own: Any
) -> ModelConfig:
    refuse_mup(values, family.architecture, where)
    activation = values.get("hidden_activation") or values.get("hidden_act") or ASSUMED["hidden_act"]
    # to the first one "gelu" was always the other one
    if activation != ASSUMED["hidden_act"] and (activation != "gelu" or family is not FAMILY):
        raise UserError(f"{where}: hidden_activation {shown(activation)} is not Gemma's gelu_pytorch_tanh")
    values = {**values, "hidden_act": ASSUMED["hidden_act"]}
    width = values.get("hidden_size")
    scale = embedding_scale(width, values) if type(width) is int and 0 < width < 2**31 else 1.0
    return read_decoder(values, where, assumed, refused, norm="rms_1p", scale=True, scale_emb=scale, **own)


def embedding_scale(width: int, values: dict[str, Any]) -> float:
    """The root of the width, in the dtype that config.json names: that is how these models are trained and run."""
    root, dtype = math.sqrt(width), values.get("dtype") or values.get("torch_dtype")
    if dtype == "bfloat16":  # the upper half of a float32, rounded to even
        bits = struct.unpack("<I", struct.pack("<f", root))[0]
        rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16 << 16
        return float(struct.unpack("<f", struct.pack("<I", rounded))[0])
    return float(struct.unpack("<e", struct.pack("<e", root))[0]) if dtype == "float16" else root


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    root = math.sqrt(config.dim_model)
    mup = config.scale_depth > 0 or config.width_ratio != 1 or not config.scale
    if mup or abs(config.embedding_scale / root - 1) > 2**-8:
        raise UserError(f"{where}: Gemma multiplies embeddings by the root of dim_model, {root:g}, and nothing else")
    for name, wanted in (("activate_fn", "gelu_tanh"), ("norm", "rms_1p")):
        if getattr(config, name) != wanted:
            raise UserError(f"{where}: {name} must be {wanted} for a Gemma, not {getattr(config, name)}")
    activation = ASSUMED["hidden_act"]
    values = {"model_type": "gemma", **written_decoder(config), "head_dim": config.dim_head}
    return {**values, "attention_bias": False, "hidden_activation": activation, "hidden_act": activation}


def _write_2(config: ModelConfig, where: str) -> dict[str, Any]:
    width = config.attention_scale**-2 if config.attention_scale else config.dim_head
    if abs(width - round(width)) > 1e-6 * width:
        raise UserError(f"{where}: attention_scale must be 1 over the root of a whole number for a Gemma 2")
    return {
        **_write(config, where),
        "model_type": "gemma2",
        "attn_logit_softcapping": config.attention_softcap or None,
        "final_logit_softcapping": config.logit_softcap or None,
        "layer_types": layer_types(config),
        "query_pre_attn_scalar": round(width),
        # versions that know no layer_types have it in every other layer: there it must hold every text
        "sliding_window": max(config.windows) or max(WINDOW, config.max_length),
    }


FAMILY = Family(
    architecture="GemmaForCausalLM",
    model_type="gemma",
    features=frozenset({"norm", "scale"}),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS,
    models="Gemma, CodeGemma",
    templates=("gemma",),
    refused=REFUSED,
)
GEMMA2 = Family(
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    features=frozenset({"norm", "scale", "branch_norm"}),
    read_config=_read_2,
    write_config=_write_2,
    layouts=LAYOUTS_2,
    also=frozenset({"attention_scale", "attention_softcap", "logit_softcap", "sliding_window", "sliding_layers"}),
    models="Gemma 2",
    templates=("gemma",),
    refused=REFUSED_2,
)
