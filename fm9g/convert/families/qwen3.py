"""Qwen3 (https://arxiv.org/abs/2505.09388): a LLaMA whose queries and keys are normalised, head by head."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, refuse_mup, without, written_decoder
from fm9g.convert.families.llama import LAYOUTS
from fm9g.convert.families.qwen import WINDOWS, read_qwen_windows, written_windows
from fm9g.convert.layouts import renamed
from fm9g.model.config import ModelConfig

ASSUMED = {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128}
REFUSED = without(NEUTRAL, "sliding_window")
NORMS = renamed({f"self_att.self_attention.{name}": f"self_attn.{name}" for name in ("q_norm", "k_norm")})


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    return read_decoder(values, where, ASSUMED, REFUSED, qk_norm=True, **read_qwen_windows(values, where))


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    values = {"model_type": "qwen3", **written_decoder(config), "head_dim": config.dim_head}
    return values | {"attention_bias": False, **written_windows(config)}


FAMILY = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    features=frozenset({"qk_norm"}),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS.replacing(*NORMS),
    also=WINDOWS,
    models="Qwen3",
    templates=("qwen3",),
    refused=REFUSED,
)
