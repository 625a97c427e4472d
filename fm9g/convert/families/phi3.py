"""Phi-3 and Phi-4-mini (https://arxiv.org/abs/2404.14219): a LLaMA of fused tensors, some rotated in part."""

from __future__ import annotations

from typing import Any

from fm9g.convert import hf_rope
from fm9g.convert.families.family import (
    NEUTRAL,
    Family,
    read_decoder,
    refuse_mup,
    require_rope,
    require_usual_heads,
    without,
    written_decoder,
)
from fm9g.convert.families.fused import FUSED_GATE, QKV
from fm9g.convert.families.llama import LAYOUTS as LLAMA
from fm9g.convert.families.windows import read_windows, written_window
from fm9g.convert.layouts import Layout
from fm9g.model.config import ModelConfig

LAYOUTS = LLAMA.replacing(Layout(("self_attn.qkv_proj",), QKV), FUSED_GATE)
ASSUMED = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
REFUSED = without(NEUTRAL, "sliding_window") | {"embd_pdrop": 0.0, "resid_pdrop": 0.0}
ROPES = ("", "longrope")  # which its class allows


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    windows = read_windows(values, lambda layer: True, where, by_layer=False)
    config = read_decoder(_with_rope(values), where, ASSUMED, REFUSED, share=1.0, **windows)
    require_rope(config, ROPES, FAMILY, where)
    return config


def _with_rope(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what its class makes of RoPE scaling: a first length for all, and one type of several names."""
    found: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        spelling = values.get(key)
        if isinstance(spelling, dict) and any(spelling.get(name) in ("su", "yarn") for name in ("type", "rope_type")):
            renamed = {name: "longrope" for name in ("type", "rope_type") if spelling.get(name) is not None}
            found[key] = {**spelling, **renamed}
    return {hf_rope.FIRST_LENGTH: ASSUMED["max_position_embeddings"], **values, **found}


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    require_usual_heads(config, "Phi-3", where)
    require_rope(config, ROPES, FAMILY, where)
    values = {"model_type": "phi3", **written_decoder(config), "original_max_position_embeddings": config.max_length}
    return {**values, **written_window(config, "Phi-3", where)}


FAMILY = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    features=frozenset({"rotary_dim"}),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS,
    also=frozenset({"sliding_window"}),
    in_part=True,
    models="Phi-3, Phi-4, Phi-4-mini",
    templates=("phi3",),
    refused=REFUSED,
)
