"""Qwen2 and Qwen2.5 (https://arxiv.org/abs/2407.10671, 2412.15115): a LLaMA with biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import (
    NEUTRAL,
    Family,
    read_decoder,
    refuse_mup,
    refuse_windows,
    require_usual_heads,
    written_decoder,
)
from fm9g.convert.families.llama import LAYOUTS
from fm9g.model.config import ModelConfig

ASSUMED = {"max_position_embeddings": 32768, "num_key_value_heads": 32}
# sliding_window says nothing where use_sliding_window is false, as in every published model
REFUSED = {key: value for key, value in NEUTRAL.items() if key != "sliding_window"}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    refuse_windows(values, where)
    return read_decoder(values, where, ASSUMED, REFUSED, qkv_bias=True)


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    require_usual_heads(config, "Qwen2", where)
    return {"model_type": "qwen2", **written_decoder(config), "use_sliding_window": False}


FAMILY = Family("Qwen2ForCausalLM", "qwen2", frozenset({"qkv_bias"}), _read, _write, LAYOUTS)
