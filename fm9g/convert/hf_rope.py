"""The rotary position embeddings of a config.json: read to transformers' meaning, written as they were computed.

RoPE has two spellings, rope_theta with rope_scaling (transformers 4) and rope_parameters (transformers 5): either is
read, both are written.

Of `dynamic`, transformers (4.44 to 5) leaves the base alone up to max_position_embeddings tokens, whatever
original_max_position_embeddings says, and raises it with the length of a text beyond. So a config.json is read as a
model of max_position_embeddings tokens whose base is its rope_theta. Ours, where max_length is beyond
orig_max_length, has one raised base for every text: written as what it is, a rope_theta of that value.

Of `longrope`, transformers takes one set of factors for texts of up to original_max_position_embeddings tokens and
another for batches with a longer one. So where the sets differ, a config.json is read as a model of that many tokens.
Ours of more has the long set for every text, and is written with it in both places.

Of `yarn`, transformers before 5 took other lengths and factors than those that rope_scaling names, differently from
version to version; it is read as 5 does, by what is named.
"""

from __future__ import annotations

import math
from typing import Any

from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig
from fm9g.model.rope_kinds import yarn_magnitude

DEFAULT_THETA = 10000.0
FIRST_LENGTH = "original_max_position_embeddings"
# Their names of our fields, by rope_type; `default`'s are none.
FIELDS: dict[str, dict[str, str]] = {
    "linear": {"rope_scaling_factor": "factor"},
    "dynamic": {"rope_scaling_factor": "factor"},
    "llama3": {
        "rope_scaling_factor": "factor",
        "orig_max_length": FIRST_LENGTH,
        "rope_scaling_low_freq_factor": "low_freq_factor",
        "rope_scaling_high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "rope_scaling_factor": "factor",
        "orig_max_length": FIRST_LENGTH,
        "rope_scaling_attention_factor": "attention_factor",
        "rope_scaling_beta_fast": "beta_fast",
        "rope_scaling_beta_slow": "beta_slow",
        "rope_scaling_truncate": "truncate",
    },
    "longrope": {
        "rope_scaling_factor": "factor",
        "orig_max_length": FIRST_LENGTH,
        "rope_scaling_attention_factor": "attention_factor",
        "rope_scaling_short_factors": "short_factor",
        "rope_scaling_long_factors": "long_factor",
    },
}
REQUIRED = {  # of others, the factor
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
SPELLING = {
    "base": "rope_theta",
    "rope_scaling_type": "rope_type",
    **{ours: theirs for fields in FIELDS.values() for ours, theirs in fields.items()},
}
# Keys without a field of ours. original_max_position_embeddings is read by transformers for some types alone; YaRN's
# mscales are another way to say attention_factor.
SHARE = "partial_rotary_factor"
KEYS = ("rope_type", "type", "rope_theta", "factor", FIRST_LENGTH, SHARE)
MSCALES = ("mscale", "mscale_all_dim")


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
    if kind == "default":
        return {"base": rope["rope_theta"]}
    fields = {ours: rope[theirs] for ours, theirs in FIELDS[kind].items() if theirs in rope}
    if kind == "longrope" and rope["short_factor"] != rope["long_factor"]:
        fields["max_length"] = rope[FIRST_LENGTH]
    return {"base": rope["rope_theta"], "rope_scaling_type": kind, **fields}


def rotary_share(values: dict[str, Any], where: str) -> Any:
    """The share of each head's dimensions that are rotated, as a config.json's `values` say it; None where they do
    not. Two that differ are a UserError."""
    spellings = (values, values.get("rope_scaling"), values.get("rope_parameters"))
    said = [spelling.get(SHARE) for spelling in spellings if isinstance(spelling, dict)]
    said = [share for share in said if share is not None]
    for share in said:
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise UserError(f"{where}: {SHARE} must be a share above 0 and up to 1, not {shown(share)}")
        if share != said[0]:
            raise UserError(f"{where}: {SHARE} is {said[0]!r} and {share!r}")
    return said[0] if said else None


def _spelling(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The fields of rope_scaling or rope_parameters that say something, checked; `type` is named rope_type."""
    spelling = values.get(key) or {}
    if not isinstance(spelling, dict):
        raise UserError(f"{where}: {key} must be an object, not {shown(spelling)}")
    null_truncate = "truncate" in spelling and spelling["truncate"] is None
    spelling = {name: value for name, value in spelling.items() if value is not None}
    if any(isinstance(value, dict) for value in spelling.values()):
        raise UserError(f"{where}: {key} differs between layers, which is not supported")
    if "type" in spelling and spelling.setdefault("rope_type", spelling["type"]) != spelling.pop("type"):
        raise UserError(f"{where}: {key} has a type and another rope_type")
    kind = spelling.get("rope_type", "default")
    if kind != "default" and (not isinstance(kind, str) or kind not in FIELDS):
        known = ", ".join(FIELDS)
        raise UserError(f"{where}: {key}: RoPE scaling {shown(kind)} is not supported (only {known} are)")
    if kind == "yarn" and null_truncate:
        raise UserError(f"{where}: {key}: truncate must be true or false, not null, which transformers takes for false")
    _check_keys(spelling, kind, f"{where}: {key}")
    if FIRST_LENGTH in FIELDS.get(kind, {}).values():
        outside = values.get(FIRST_LENGTH)
        if outside is not None and spelling.setdefault(FIRST_LENGTH, outside) != outside:
            raise UserError(f"{where}: {FIRST_LENGTH} is {shown(outside)}, but another in {key}")
        if spelling.get(FIRST_LENGTH) == 0:  # which is our way to say that none is given
            raise UserError(f"{where}: {FIRST_LENGTH} must be positive, not 0")
    if kind == "longrope" and "factor" not in spelling:
        spelling["factor"] = _stretch(values.get("max_position_embeddings"), spelling.get(FIRST_LENGTH), where)
    return _with_attention_factor(spelling, f"{where}: {key}") if kind in ("yarn", "longrope") else spelling


def _stretch(length: Any, first: Any, where: str) -> float:
    """longrope's factor where it is not given: by how much the model reaches further than at first."""
    for key, value in (("max_position_embeddings", length), (FIRST_LENGTH, first)):
        if type(value) is not int or value < 1:
            raise UserError(f"{where}: {key} must be a positive whole number, not {shown(value)}")
    return float(length / first)


def _check_keys(spelling: dict[str, Any], kind: str, where: str) -> None:
    known = {*KEYS, *FIELDS.get(kind, {}).values(), *(MSCALES if kind == "yarn" else ())}
    unknown = [name for name in spelling if name not in known]
    if unknown:
        raise UserError(
            f"{where}: {unknown[0]} means nothing to rope_type {kind!r} in transformers: remove it, or name the type "
            "that it belongs to"
        )
    if kind == "default" and spelling.get("factor", 1.0) != 1.0:
        raise UserError(f"{where}: has factor={shown(spelling['factor'])}, but no rope_type that it belongs to")
    for name in REQUIRED.get(kind, ("factor",)) if kind != "default" else ():
        if name not in spelling:
            raise UserError(f"{where}: RoPE scaling {kind!r} has no {name}")


def _with_attention_factor(spelling: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields with attention_factor for a pair of YaRN's mscales, which it goes before."""
    rest = {name: value for name, value in spelling.items() if name not in MSCALES}
    if rest.get("attention_factor", 1.0) == 0:  # which is our way to say that none is given
        raise UserError(f"{where}: attention_factor must be above 0, not {shown(rest['attention_factor'])}")
    pair = [spelling.get(name, 0.0) for name in MSCALES]
    if "attention_factor" in rest or not all(pair):
        return rest
    numbers = (spelling["factor"], *pair)
    if not all(isinstance(number, int | float) and number > 0 for number in numbers):
        raise UserError(f"{where}: factor, {' and '.join(MSCALES)} must be positive numbers, not {shown(numbers)}")
    factor, *weights = numbers
    above, below = (yarn_magnitude(factor, weight) for weight in weights)
    return {**rest, "attention_factor": above / below}


def _require_agreement(old: dict[str, Any], new: dict[str, Any], where: str) -> None:
    """transformers 4 reads rope_scaling, 5 takes it before rope_parameters: they must say the same."""
    usual = {"rope_type": "default", "rope_theta": DEFAULT_THETA, "factor": 1.0}
    for key in [*usual, *(name for name in FIELDS.get(old.get("rope_type", ""), {}).values() if name not in usual)]:
        first, second = old.get(key, usual.get(key)), new.get(key, usual.get(key))
        if first != second:
            raise UserError(f"{where}: rope_parameters says {key}={shown(second)}, but rope_scaling {shown(first)}")


def written_rope(config: ModelConfig, in_part: bool) -> dict[str, Any]:
    """The RoPE keys of a config.json, in the old spelling and the new, and the length that they are for.

    `in_part`: whether the family may rotate a share of each head, and so must say which, be it all.
    """
    kind, raised = config.rope_scaling_type, config.rotary_base != config.base
    if kind == "longrope":
        return _written_longrope(config, in_part)
    scaling = {theirs: getattr(config, ours) for ours, theirs in FIELDS[kind].items()} if kind and not raised else {}
    rope_type = kind if scaling else "default"
    # Up to this length `dynamic` is computed without scaling, here and there.
    length = {"max_position_embeddings": config.orig_max_length} if rope_type == "dynamic" else {}
    if not scaling.get("attention_factor", 1.0):
        del scaling["attention_factor"]  # 0 for us is null for them
    share = _written_share(config, in_part)
    return {
        **length,
        **share,
        "rope_parameters": {"rope_theta": config.rotary_base, "rope_type": rope_type, **scaling, **share},
        # Of old types two keys and no more: transformers 4.36 and MiniCPM's own code refuse anything else.
        "rope_scaling": {"type": rope_type, **scaling} if scaling else None,
        "rope_theta": config.rotary_base,
    }


def _written_longrope(config: ModelConfig, in_part: bool) -> dict[str, Any]:
    """Where no attention factor has to be named, rope_scaling has the three keys that old code of Phi-3 insists on,
    and the lengths say the factor."""
    first, used = config.orig_max_length, list(config.rope_factors)
    long = used if config.max_length > first else list(config.rope_scaling_long_factors)
    length = max(round(first * config.rope_scaling_factor), config.max_length)
    factors: dict[str, Any] = {"short_factor": used, "long_factor": long}
    named: dict[str, Any] = {"factor": config.rope_scaling_factor}
    if config.rope_scaling_attention_factor or length / first != config.rope_scaling_factor:
        named["attention_factor"] = config.attention_factor
        factors |= named
    share = _written_share(config, in_part)
    return {
        **share,
        FIRST_LENGTH: first,
        "max_position_embeddings": length,
        "rope_parameters": {
            **{"rope_theta": config.base, "rope_type": "longrope", FIRST_LENGTH: first},
            **{**named, **factors, **share},
        },
        "rope_scaling": {"type": "longrope", **factors},
        "rope_theta": config.base,
    }


def _written_share(config: ModelConfig, in_part: bool) -> dict[str, float]:
    """The least share at which transformers, which rounds down, rotates so many dimensions."""
    if not in_part:
        return {}
    share = config.rotated / config.dim_head
    while int(config.dim_head * share) < config.rotated:
        share = math.nextafter(share, 1.0)
    return {SHARE: share}
