"""Phi-3 and Phi-4-mini (https://arxiv.org/abs/2404.14219): a LLaMA of fused tensors, some rotated in part."""

from __future__ import annotations

from typing import Any

from fm9g.convert import hf_rope
from fm9g.convert.families.family import (
    NEUTRAL,
    Family,
    read_decoder,
    read_windows,
    refuse_mup,
    require_usual_heads,
    written_decoder,
)
from fm9g.convert.families.fused import FUSED_GATE, GATED, QKV
from fm9g.convert.families.llama import LAYOUTS as LLAMA
from fm9g.convert.families.mistral import written_window
from fm9g.convert.layouts import Layout
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig

LAYOUTS = LLAMA._replace(
    block=(
        *(layout for layout in LLAMA.block if layout.ours[0] not in (*QKV, *GATED)),
        Layout(("self_attn.qkv_proj",), QKV),
        FUSED_GATE,
    )
)
ASSUMED = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
REFUSED: dict[str, Any] = {key: value for key, value in NEUTRAL.items() if key != "sliding_window"}
REFUSED |= {"embd_pdrop": 0.0, "resid_pdrop": 0.0}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    length = values.get("max_position_embeddings") or ASSUMED["max_position_embeddings"]
    windows = read_windows(values, lambda layer: True, length, where, by_layer=False)
    return read_decoder(_with_rope(values), where, ASSUMED, REFUSED, share=1.0, **windows)


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
    if config.rope_scaling_type not in ("", "longrope"):
        raise UserError(f"{where}: rope_scaling_type must be '' or 'longrope' for a Phi-3, whose code knows no other")
    values = {"model_type": "phi3", **written_decoder(config), "original_max_position_embeddings": config.max_length}
    return {**values, **written_window(config, "Phi-3", where)}


FAMILY = Family(
    *("Phi3ForCausalLM", "phi3", frozenset({"rotary_dim"}), _read, _write, LAYOUTS),
    also=frozenset({"sliding_window"}),
    in_part=True,
    models="Phi-3, Phi-4, Phi-4-mini",
    templates=("phi3",),
    refused=REFUSED,
)
