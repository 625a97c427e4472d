"""The rotary position embeddings of a config.json: read to transformers' meaning, written as they were computed.

RoPE has two spellings, rope_theta with rope_scaling (transformers 4) and rope_parameters (transformers 5): either is
read, both are written.

Of `dynamic`, transformers (4.44 to 5) leaves the base alone up to max_position_embeddings tokens, whatever
original_max_position_embeddings says, and raises it with the length of a text beyond. So a config.json is read as a
model of max_position_embeddings tokens whose base is its rope_theta. Ours, where max_length is beyond
orig_max_length, has one raised base for every text: written as what it is, a rope_theta of that value.
"""

from __future__ import annotations

from typing import Any

from fm9g.errors import UserError, shown
from fm9g.model.config import ROPE_SCALINGS, ModelConfig

DEFAULT_THETA = 10000.0
SPELLING = {"base": "rope_theta", "rope_scaling_type": "rope_type", "rope_scaling_factor": "factor"}
# original_max_position_embeddings is read by transformers for other types alone.
KEYS = ("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor")


def read_rope(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Our RoPE settings for a config.json's `values`; `where` names the file in errors.

    A spelling that contradicts the other, and a field that transformers would ignore or we cannot represent, is a
    UserError that names it.
    """
    theta = {} if values.get("rope_theta") is None else {"rope_theta": values["rope_theta"]}
    spellings = {key: _spelling(values, key, where) for key in ("rope_scaling", "rope_parameters")}
    for key, spelling in spellings.items():
        if theta and "rope_theta" in spelling and spelling["rope_theta"] != theta["rope_theta"]:
            raise UserError(
                f"{where}: {key} says rope_theta={spelling['rope_theta']!r}, but rope_theta is {theta['rope_theta']!r}"
            )
    given = {key: {"rope_theta": DEFAULT_THETA, **theta, **spelling} for key, spelling in spellings.items() if spelling}
    if len(given) == 2:
        _require_agreement(given["rope_scaling"], given["rope_parameters"], where)
    rope = next(iter(given.values()), {"rope_theta": DEFAULT_THETA, **theta})
    kind = rope.get("rope_type", "default")
    return {
        "base": rope["rope_theta"],
        "rope_scaling_type": "" if kind == "default" else kind,
        "rope_scaling_factor": 1.0 if kind == "default" else rope["factor"],
    }


def _spelling(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The fields of rope_scaling or rope_parameters that say something, checked; `type` is named rope_type."""
    spelling = values.get(key) or {}
    if not isinstance(spelling, dict):
        raise UserError(f"{where}: {key} must be an object, not {shown(spelling)}")
    spelling = {name: value for name, value in spelling.items() if value is not None}
    if any(isinstance(value, dict) for value in spelling.values()):
        raise UserError(f"{where}: {key} differs between layers, which is not supported")
    if "type" in spelling and spelling.setdefault("rope_type", spelling["type"]) != spelling.pop("type"):
        raise UserError(f"{where}: {key} has a type and another rope_type")
    kind = spelling.get("rope_type", "default")
    if kind != "default" and (not kind or kind not in ROPE_SCALINGS):
        raise UserError(f"{where}: {key}: RoPE scaling {shown(kind)} is not supported (only linear and dynamic are)")
    unknown = [name for name in spelling if name not in KEYS]
    if unknown:
        raise UserError(
            f"{where}: {key}: {unknown[0]} means nothing to rope_type {kind!r} in transformers: remove it, or name the "
            "type that it belongs to"
        )
    if spelling.get("partial_rotary_factor", 1.0) != 1.0:
        share = shown(spelling["partial_rotary_factor"])
        raise UserError(f"{where}: {key}: partial_rotary_factor={share} is not supported")
    if kind == "default" and spelling.get("factor", 1.0) != 1.0:
        raise UserError(f"{where}: {key}: has factor={shown(spelling['factor'])}, but no rope_type that it belongs to")
    if kind != "default" and "factor" not in spelling:
        raise UserError(f"{where}: {key}: RoPE scaling {kind!r} has no factor")
    return spelling


def _require_agreement(old: dict[str, Any], new: dict[str, Any], where: str) -> None:
    """transformers 4 reads rope_scaling, 5 takes it before rope_parameters: they must say the same."""
    for key, usual in (("rope_type", "default"), ("factor", 1.0), ("rope_theta", DEFAULT_THETA)):
        first, second = old.get(key, usual), new.get(key, usual)
        if first != second:
            raise UserError(f"{where}: rope_parameters says {key}={shown(second)}, but rope_scaling {shown(first)}")


def written_rope(config: ModelConfig) -> dict[str, Any]:
    """The RoPE keys of a config.json, in the old spelling and the new, and the length that they are for."""
    kind, raised = config.rope_scaling_type, config.rotary_base != config.base
    scaling: dict[str, Any] = {"factor": config.rope_scaling_factor} if kind and not raised else {}
    rope_type = kind if scaling else "default"
    # Up to this length `dynamic` is computed without scaling, here and there.
    length = {"max_position_embeddings": config.orig_max_length} if rope_type == "dynamic" else {}
    return {
        **length,
        "rope_parameters": {"rope_theta": config.rotary_base, "rope_type": rope_type, **scaling},
        # Two keys and no more: transformers 4.36 and MiniCPM's own code refuse anything else.
        "rope_scaling": {"type": rope_type, **scaling} if scaling else None,
        "rope_theta": config.rotary_base,
    }
