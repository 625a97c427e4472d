"""Qwen2-MoE (https://arxiv.org/abs/2407.10671, section 2.2.2) and Qwen3-MoE (https://arxiv.org/abs/2505.09388): Qwen2
with experts, one of which every token has, and Qwen3 with experts."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families import qwen, qwen3
from fm9g.convert.families.experts import NEUTRAL as WITHOUT
from fm9g.convert.families.experts import expert_layouts, shared_settings, whole_number, written_experts
from fm9g.convert.families.family import (
    Family,
    read_decoder,
    refuse_mup,
    require_usual_heads,
    written_decoder,
)
from fm9g.convert.families.windows import written_window
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
SHARED = {
    f"ffn.ffn.shared_expert.{ours}": f"mlp.shared_expert.{theirs}"
    for ours, theirs in zip(("w_in.w_0", "w_in.w_1", "w_out"), PROJECTIONS, strict=True)
} | {"ffn.ffn.shared_expert_gate": "mlp.shared_expert_gate"}
REFUSED_2, REFUSED_3 = qwen.REFUSED | WITHOUT | {"qkv_bias": True}, qwen3.REFUSED | WITHOUT
COUNTS = ("num_experts", "num_local_experts")  # some versions of transformers write the one, some the other


def _read2(values: dict[str, Any], where: str) -> ModelConfig:
    shared = whole_number(values, "shared_expert_intermediate_size", 5632, where)
    assumed = {"max_position_embeddings": 32768, "num_key_value_heads": 16}
    windows = qwen.read_qwen_windows(values, where, lambda layer, first: layer % 2 == 0 and layer < first)
    own = {"qkv_bias": True, "dim_shared_expert": shared, **windows}
    return _read(values, where, QWEN2, assumed, REFUSED_2, (60, 1408, 4), **own)


def _read3(values: dict[str, Any], where: str) -> ModelConfig:
    assumed = {"max_position_embeddings": 32768, "num_key_value_heads": 4}
    windows = qwen.read_qwen_windows(values, where, lambda layer, first: True, by_layer=False)
    return _read(values, where, QWEN3, assumed, REFUSED_3, (128, 768, 8), qk_norm=True, **windows)


def _read(
    values: dict[str, Any],
    where: str,
    family: Family,
    assumed: dict[str, Any],
    neutral: dict[str, Any],
    counts: tuple[int, int, int],
    **own: Any,
) -> ModelConfig:
    """`counts`: the experts, their width and how many a token has where a config.json does not say."""
    experts, width, per_token = counts
    refuse_mup(values, family.architecture, where)
    given = {key: values[key] for key in COUNTS if values.get(key) is not None}
    if len(set(map(repr, given.values()))) > 1:
        raise UserError(f"{where}: {' and '.join(f'{key}={shown(value)}' for key, value in given.items())} differ")
    return read_decoder(
        values,
        where,
        assumed,
        neutral,
        num_experts=whole_number(values, next(iter(given), COUNTS[0]), experts, where),
        dim_expert=whole_number(values, "moe_intermediate_size", width, where),
        norm_expert_weights=False if values.get("norm_topk_prob") is None else values["norm_topk_prob"],
        **shared_settings(values, per_token, where),
        **own,
    )


def _write2(config: ModelConfig, where: str) -> dict[str, Any]:
    require_usual_heads(config, "Qwen2-MoE", where)
    return _written(config, "qwen2_moe") | {
        "qkv_bias": True,
        "shared_expert_intermediate_size": config.dim_shared_expert,
        **qwen.written_windows(config),
    }


def _write3(config: ModelConfig, where: str) -> dict[str, Any]:
    window = written_window(config, "Qwen3-MoE", where) | {"use_sliding_window": any(config.windows)}
    return _written(config, "qwen3_moe") | {"attention_bias": False, "head_dim": config.dim_head, **window}


def _written(config: ModelConfig, model_type: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        **written_decoder(config),
        **written_experts(config),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": config.dim_expert,
        "norm_topk_prob": config.norm_expert_weights,
        "num_experts": config.num_experts,
    }


QWEN2 = Family(
    architecture="Qwen2MoeForCausalLM",
    model_type="qwen2_moe",
    features=frozenset({"num_experts", "dim_shared_expert", "qkv_bias"}),
    read_config=_read2,
    write_config=_write2,
    layouts=expert_layouts(qwen.FAMILY.layouts, "mlp", PROJECTIONS, SHARED),
    also=qwen.WINDOWS,
    models="Qwen1.5-MoE, Qwen2-57B-A14B",
    templates=("qwen", "chatml"),
    refused=REFUSED_2,
)
QWEN3 = Family(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    features=frozenset({"num_experts", "qk_norm"}),
    read_config=_read3,
    write_config=_write3,
    layouts=expert_layouts(qwen3.FAMILY.layouts, "mlp", PROJECTIONS),
    also=frozenset({"sliding_window"}),
    models="Qwen3-30B-A3B, Qwen3-235B-A22B",
    templates=("qwen3",),
    refused=REFUSED_3,
)
