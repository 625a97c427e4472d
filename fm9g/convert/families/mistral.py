"""Mistral (https://arxiv.org/abs/2310.06825), where no text is longer than its sliding window: a LLaMA."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, refuse_mup
from fm9g.convert.families.llama import LAYOUTS
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

ASSUMED = {"max_position_embeddings": 4096 * 32, "num_key_value_heads": 8}
WINDOW = 4096  # of a config.json that leaves sliding_window out; null is none
REFUSED = {key: value for key, value in NEUTRAL.items() if key != "sliding_window"}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    config = read_decoder(values, where, ASSUMED, REFUSED)
    refuse_short_window(values.get("sliding_window", WINDOW), config, where)
    return config


def refuse_short_window(window: Any, config: ModelConfig, where: str) -> None:
    """A UserError for a sliding window that a text of max_length would notice."""
    if window is not None and (not isinstance(window, int) or window < config.max_length):
        raise UserError(
            f"{where}: sliding_window={shown(window)} below max_position_embeddings ({config.max_length}) is not "
            "supported: our model has no such thing"
        )


FAMILY = Family("MistralForCausalLM", "mistral", frozenset(), _read, None, LAYOUTS)
