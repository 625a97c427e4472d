"""Mistral (https://arxiv.org/abs/2310.06825): a LLaMA whose tokens attend to a sliding window."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, refuse_mup, without, written_decoder
from fm9g.convert.families.llama import LAYOUTS
from fm9g.convert.families.windows import read_windows, written_window
from fm9g.model.config import ModelConfig

ASSUMED = {"max_position_embeddings": 4096 * 32, "num_key_value_heads": 8}
WINDOW = 4096  # of a config.json that leaves sliding_window out; null is none
REFUSED = without(NEUTRAL, "sliding_window")


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    windows = read_windows({"sliding_window": WINDOW, **values}, lambda layer: True, where, by_layer=False)
    return read_decoder(values, where, ASSUMED, REFUSED, **windows)


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    window = written_window(config, "Mistral", where)
    return {"model_type": "mistral", **written_decoder(config), "head_dim": config.dim_head, **window}


FAMILY = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    features=frozenset({"sliding_window"}),
    read_config=_read,
    write_config=_write,
    layouts=LAYOUTS,
    models="Mistral 7B, Zephyr",
    templates=("mistral", "llama2", "zephyr"),
    refused=REFUSED,
)
