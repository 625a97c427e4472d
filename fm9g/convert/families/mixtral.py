"""Mixtral (https://arxiv.org/abs/2401.04088): Mistral with experts, whose weights sum to 1."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.experts import NEUTRAL as WITHOUT
from fm9g.convert.families.experts import expert_layouts, shared_settings, whole_number, written_experts
from fm9g.convert.families.family import Family, read_decoder, refuse_mup, written_decoder
from fm9g.convert.families.llama import LAYOUTS
from fm9g.convert.families.mistral import REFUSED
from fm9g.convert.families.windows import read_windows, written_window
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig

ASSUMED = {
    "max_position_embeddings": 4096 * 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}
THETA = 1e6  # where no spelling of RoPE says another


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    spellings = [values, *(values.get(key) for key in ("rope_scaling", "rope_parameters"))]
    if not any(isinstance(spelling, dict) and spelling.get("rope_theta") for spelling in spellings):
        values = {**values, "rope_theta": THETA}
    return read_decoder(
        values,
        where,
        ASSUMED,
        REFUSED | WITHOUT,
        num_experts=whole_number(values, "num_local_experts", 8, where),
        norm_expert_weights=True,
        **shared_settings(values, 2, where),
        **read_windows(values, lambda layer: True, where, by_layer=False),
    )


def _write(config: ModelConfig, where: str) -> dict[str, Any]:
    if not config.norm_expert_weights:
        raise UserError(f"{where}: the weights of Mixtral's experts sum to 1: norm_expert_weights must be true")
    return {
        "model_type": "mixtral",
        **written_decoder(config),
        **written_experts(config),
        "head_dim": config.dim_head,
        "intermediate_size": config.dim_expert,
        "num_local_experts": config.num_experts,
        "router_jitter_noise": 0.0,
        **written_window(config, "Mixtral", where),
    }


FAMILY = Family(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    features=frozenset({"num_experts"}),
    read_config=_read,
    write_config=_write,
    layouts=expert_layouts(LAYOUTS, "block_sparse_moe", ("w1", "w3", "w2")),
    also=frozenset({"sliding_window"}),
    models="Mixtral 8x7B, 8x22B",
    templates=("mistral", "llama2"),
    refused=REFUSED | WITHOUT,
)
