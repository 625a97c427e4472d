"""InternLM, the first: a LLaMA with biases of attention's projections."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, read_flag, refuse_mup
from fm9g.convert.families.llama import LAYOUTS
from fm9g.convert.hf_rope import DEFAULT_THETA
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

USUAL = {"base": DEFAULT_THETA, "type": "dynamic"}  # `rotary` of a config.json that leaves it out
UNREAD = ("head_dim", "num_key_value_heads", "rope_parameters")  # usual keys that its code does not read


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    own = attention_biases(values, where)
    return read_decoder({**values, **_rope(values, where)}, where, None, NEUTRAL, unread=UNREAD, **own)


def attention_biases(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Our fields for `bias`, which both versions' classes take for true where it is left out."""
    return dict.fromkeys(("qkv_bias", "out_bias"), read_flag(values, "bias", True, where))


def _rope(values: dict[str, Any], where: str) -> dict[str, Any]:
    """`rotary` in transformers' keys."""
    rotary = values.get("rotary") or USUAL
    if not isinstance(rotary, dict) or rotary.get("type") not in ("origin", "dynamic"):
        raise UserError(f"{where}: rotary must be an object whose type is 'origin' or 'dynamic', not {shown(rotary)}")
    factor = {"type": "dynamic", "factor": rotary.get("scaling_factor", 1.0)}
    return {"rope_theta": rotary.get("base"), "rope_scaling": factor if rotary["type"] == "dynamic" else None}


FAMILY = Family(
    architecture="InternLMForCausalLM",
    model_type=None,
    features=frozenset(),
    read_config=_read,
    write_config=None,
    layouts=LAYOUTS,
    also=frozenset({"qkv_bias", "out_bias"}),
    names_rope=False,
    models="InternLM (first version)",
    templates=("internlm",),
)
