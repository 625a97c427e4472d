"""Mistral (https://arxiv.org/abs/2310.06825): a LLaMA whose tokens attend to a sliding window."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, read_windows, refuse_mup, written_decoder
from fm9g.convert.families.llama import LAYOUTS
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig

ASSUMED = {"max_position_embeddings": 4096 * 32, "num_key_value_heads": 8}
WINDOW = 4096  # of a config.json that leaves sliding_window out; null is none
REFUSED = {key: value for key, value in NEUTRAL.items() if key != "sliding_window"}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    length = values.get("max_position_embeddings") or ASSUMED["max_position_embeddings"]
    windows = read_windows({"sliding_window": WINDOW, **values}, lambda layer: True, length, where, by_layer=False)
    return read_decoder(values, where, ASSUMED, REFUSED, **windows)


def written_window(config: ModelConfig, name: str, where: str) -> dict[str, Any]:
    """The key of a window that all layers have, or none; `name`: the family's, for errors."""
    if config.sliding_layers:
        raise UserError(f"{where}: {name} has a sliding window in all layers or in none")
    return {"sliding_window": config.sliding_window or None}


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    window = written_window(config, "Mistral", where)
    return {"model_type": "mistral", **written_decoder(config), "head_dim": config.dim_head, **window}


FAMILY = Family(
    *("MistralForCausalLM", "mistral", frozenset({"sliding_window"}), _read, _write, LAYOUTS),
    models="Mistral 7B, Zephyr",
    templates=("mistral", "zephyr"),
    refused=REFUSED,
)
