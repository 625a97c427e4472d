"""Qwen2 and Qwen2.5 (https://arxiv.org/abs/2407.10671, 2412.15115): a LLaMA with biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fm9g.convert.families.family import (
    NEUTRAL,
    Family,
    read_decoder,
    read_flag,
    refuse_mup,
    require_usual_heads,
    without,
    written_decoder,
)
from fm9g.convert.families.llama import LAYOUTS
from fm9g.convert.families.windows import SLIDING, layer_types, read_windows
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

ASSUMED = {"max_position_embeddings": 32768, "num_key_value_heads": 32}
FIRST = 28  # max_window_layers of a config.json that leaves it out
WINDOWS = frozenset({"sliding_window", "sliding_layers"})
REFUSED = without(NEUTRAL, "sliding_window")


def from_first(layer: int, first: int) -> bool:
    """Qwen2 and Qwen3: the layers from max_window_layers on have a window."""
    return layer >= first


def read_qwen_windows(
    values: dict[str, Any],
    where: str,
    slides: Callable[[int, int], bool] = from_first,
    by_layer: bool = True,
) -> dict[str, Any]:
    """Our fields for use_sliding_window; `slides`: whether a layer has a window, by max_window_layers."""
    used, first = read_flag(values, "use_sliding_window", False, where), values.get("max_window_layers", FIRST)
    if type(first) is not int:
        raise UserError(f"{where}: max_window_layers must be a whole number, not {shown(first)}")
    kinds = values.get("layer_types")
    if by_layer and not used and isinstance(kinds, list) and SLIDING in kinds:
        raise UserError(f"{where}: layer_types has {SLIDING}, but use_sliding_window is not true: one of them is wrong")
    said = {"sliding_window": 4096, **values} if used else {**values, "sliding_window": None}
    return read_windows(said, lambda layer: used and slides(layer, first), where, by_layer)


def written_windows(config: ModelConfig) -> dict[str, Any]:
    """The keys of sliding windows, in the spelling before layer_types, and in that one."""
    if not any(config.windows):
        return {"use_sliding_window": False}
    first = next(layer for layer, window in enumerate(config.windows) if window)
    window = {"use_sliding_window": True, "sliding_window": config.sliding_window}
    return {**window, "max_window_layers": first, "layer_types": layer_types(config)}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    return read_decoder(values, where, ASSUMED, REFUSED, qkv_bias=True, **read_qwen_windows(values, where))


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    require_usual_heads(config, "Qwen2", where)
    return {"model_type": "qwen2", **written_decoder(config), **written_windows(config)}


FAMILY = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    features=frozenset({"qkv_bias"}),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS,
    also=WINDOWS,
    models="Qwen 1.5, 2, 2.5, QwQ",
    templates=("qwen", "chatml"),
    refused=REFUSED,
)
