"""MiniCPM (https://arxiv.org/abs/2404.06395), a LLaMA with muP, and FM9G's own spelling of it.

A FM9GForCausalLM without muP's keys is a LLaMA that ties its head unless it says otherwise.
"""

from __future__ import annotations

import math
from typing import Any

from fm9g.convert.families.family import MUP_KEYS, Family, read_decoder, require_usual_heads, written_decoder
from fm9g.convert.families.llama import LAYOUTS
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig

ASSUMED = {"tie_word_embeddings": True}


def _read_fm9g(values: dict[str, Any], where: str) -> ModelConfig:
    return read_decoder(values, where, ASSUMED)


def _read_minicpm(values: dict[str, Any], where: str) -> ModelConfig:
    if all(values.get(key) is None for key in MUP_KEYS):
        raise UserError(f"{where}: a MiniCPMForCausalLM config needs {', '.join(MUP_KEYS)}")
    return _read_fm9g(values, where)


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    require_usual_heads(config, "MiniCPM", where)
    return {
        "model_type": "minicpm",
        **written_decoder(config),
        "attention_bias": False,
        "dim_model_base": config.dim_model_base if config.scale else config.dim_model,
        "head_dim": config.dim_head,
        "mlp_bias": False,
        "scale_depth": config.scale_depth if config.scale_depth > 0 else math.sqrt(config.num_layers),
        "scale_emb": config.embedding_scale,
    }


FAMILY = Family(
    architecture="MiniCPMForCausalLM",
    model_type=None,
    features=frozenset({"scale"}),
    read_config=_read_minicpm,
    write_config=_write,
    layouts=LAYOUTS,
    models="MiniCPM 1 and 2",
    templates=("minicpm",),
)
FM9G = Family(
    architecture="FM9GForCausalLM",
    model_type=None,
    features=frozenset({"scale"}),
    read_config=_read_fm9g,
    write_config=None,
    layouts=LAYOUTS,
    models="九格 (FM9G) 4B, 7B, 70B",
    templates=("fm9g",),
)
