"""Sliding windows in a config.json: which layers have one, and how long it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fm9g.errors import UserError, shown
from fm9g.model.config import MAX_LAYERS, ModelConfig

FULL, SLIDING = "full_attention", "sliding_attention"


def read_windows(
    values: dict[str, Any], slides: Callable[[int], bool], where: str, by_layer: bool = True
) -> dict[str, Any]:
    """Our fields for sliding_window in the layers whose kind, by layer_types, is sliding_attention; or where there is
    no such list, for whose number `slides` says so.

    `by_layer`: whether transformers' code of the family reads layer_types at all.
    """
    layers = values.get("num_hidden_layers")
    if not isinstance(layers, int):
        return {}  # refused by read_decoder, in its words
    kinds: Sequence[Any] = [SLIDING if slides(layer) else FULL for layer in range(min(layers, MAX_LAYERS))]
    said = values.get("layer_types")
    if said is not None and (not isinstance(said, list) or len(said) != len(kinds)):
        raise UserError(f"{where}: layer_types must be a list of {len(kinds)} kinds, one a layer, not {shown(said)}")
    if said is not None and not by_layer and list(said) != list(kinds) and values.get("sliding_window") is not None:
        raise UserError(f"{where}: layer_types says otherwise, but in transformers all layers have the sliding_window")
    kinds = kinds if said is None else said
    other = next((kind for kind in kinds if kind not in (FULL, SLIDING)), None)
    if other is not None:
        raise UserError(f"{where}: layer_types has {shown(other)}; our model's layers have {FULL} or {SLIDING}")
    sliding, window = [layer for layer, kind in enumerate(kinds) if kind == SLIDING], values.get("sliding_window")
    if window is not None and (type(window) is not int or window < 1):
        raise UserError(f"{where}: sliding_window must be a positive whole number or null, not {shown(window)}")
    if not sliding or window is None:
        return {}
    return {"sliding_window": window, "sliding_layers": sliding if len(sliding) < len(kinds) else []}


def layer_types(config: ModelConfig) -> list[str]:
    """transformers' names of the kinds of attention, by layer."""
    return [SLIDING if window else FULL for window in config.windows]


def written_window(config: ModelConfig, name: str, where: str) -> dict[str, Any]:
    """The key of a window that all layers have, or none; `name`: the family's, for errors."""
    if len(set(config.windows)) > 1:
        raise UserError(f"{where}: {name} has a sliding window in all layers or in none")
    return {"sliding_window": config.windows[0] or None}
