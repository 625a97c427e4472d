"""Hugging Face's config.json <-> ModelConfig.

config.json is read as plain JSON: neither transformers nor a checkpoint's own Python files have a say.
What each architecture makes of it is in fm9g/convert/families/; how RoPE is read and written, in hf_rope.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fm9g.convert import hf_rope
from fm9g.convert.families import FAMILIES
from fm9g.convert.families.family import MUP_KEYS, Family
from fm9g.errors import UserError, nearest, shown
from fm9g.files import read_json
from fm9g.model.config import ModelConfig
from fm9g.model.rope_kinds import ROPE_SCALINGS
from fm9g.tensors.lazy import DTYPES

# What several fields make of a model is compared as it comes out, and told in words.
WORDS = {
    "windows": "sliding windows by layer",
    "rotary_base": "RoPE base",
    "position_scale": "RoPE scaling factor",
    "frequency_scaling": "RoPE scaling",
    "embedding_scale": "embedding scale (muP)",
    "residual_scale": "residual scale (muP)",
    "width_ratio": "width ratio (muP)",
}
_ROPE = {name for names in ROPE_SCALINGS.values() for name in names} | {"base", "rope_scaling_type", "max_length"}
_MUP = {"scale", "scale_emb", "scale_depth", "dim_model_base"}
_WINDOWS = {"sliding_window", "sliding_layers"}
_SHAPES = {"vocab_size", "dim_model", "dim_ff", "num_layers"}  # which the tensors tell
_HEADS = {"num_heads", "num_kv_heads", "dim_head"}
_EXPERTS = {"experts_per_token", "dim_expert", "norm_expert_weights"}  # of any family of experts
_TRAINING = {"dtype", "init_std", "dropout_p", "pose_prob", "pose_scaling_factor", "router_loss"}
_OF_ANY_FAMILY = {*_ROPE, *_SHAPES, *_HEADS, *_EXPERTS, *_TRAINING, "activate_fn", "eps", "tie_lm_head"}


def model_config_from_huggingface(values: Any, where: str) -> ModelConfig:
    """The ModelConfig that config.json's `values` describe; `where` names the file in errors.

    The dtype is left at its default: what the tensors are, config.json does not decide.
    """
    return family_of(values, where).read_config(values, where)


class Described(NamedTuple):
    """What the config.json of a folder says."""

    path: Path
    values: dict[str, Any]
    family: Family
    config: ModelConfig


def described(folder: Path) -> Described:
    """A Hugging Face folder's model; a UserError for a folder of none, or of one that is not known here."""
    path = folder / "config.json"
    if not path.exists() and (folder / "adapter_config.json").exists():
        raise UserError(f"{folder}: holds adapters alone: give it as --peft-dir, and the folder of their model here")
    values = read_json(path)
    family = family_of(values, str(path))
    return Described(path, values, family, family.read_config(values, str(path)))


def family_of(values: Any, where: str) -> Family:
    """The family that config.json's `architectures` names; any other is a UserError that lists those there are."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(values).__name__}")
    _check_numbers(values, where)
    architectures = values.get("architectures") or []
    for family in FAMILIES:
        if architectures == [family.architecture]:
            _check_model_type(values, family, where)
            return family
    known = sorted(family.architecture for family in FAMILIES)
    only = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else None
    near = nearest(only, known) if isinstance(only, str) else ""
    raise UserError(
        f"{where}: architectures is {shown(architectures)}; this tool converts one of {', '.join(known)}"
        + (f"; the nearest in name is {near}, which is another model unless this is a slip" if near else "")
    )


def _check_numbers(values: Mapping[str, Any], where: str) -> None:
    """Refuse whole numbers that no arithmetic of a model can take; JSON has any."""
    for key, value in values.items():
        if isinstance(value, dict):
            _check_numbers(value, f"{where}: {key}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{where}: {key} must be below 2^63, not {shown(value)}")


def _check_model_type(values: Mapping[str, Any], family: Family, where: str) -> None:
    """Refuse a config.json that transformers would take for another model; with muP's keys it is of older code."""
    given = values.get("model_type")
    if family.model_type is None or given in (None, family.model_type) or any(values.get(key) for key in MUP_KEYS):
        return
    raise UserError(
        f"{where}: model_type is {shown(given)}, by which transformers chooses, but architectures is "
        f"{family.architecture}, whose model_type is {family.model_type!r}: one of them is wrong"
    )


def features(config: ModelConfig) -> frozenset[str]:
    """The fields of ours that make a model something else than a LLaMA."""
    own = [field for field in dataclasses.fields(config) if field.name not in _OF_ANY_FAMILY | _MUP]
    found = {field.name for field in own if getattr(config, field.name) != field.default}
    found -= set() if any(config.windows) else _WINDOWS  # that no text reaches
    return frozenset(found | {"scale"} if config.scale or config.scale_depth > 0 else found)


def family_for(config: ModelConfig, where: str) -> Family:
    """The family that a model from scratch is written as; a UserError names the fields where there is none."""
    for family in FAMILIES:
        if family.write_config and _has_features(family, config):
            return family
    family = family_with(config, where)
    raise UserError(
        f"{where}: no architecture whose code is in transformers has {_told(config)}: {family.architecture} has, whose "
        "code is in its own folders; give one as the reference (--huggingface-ref-dir)"
    )


def family_with(config: ModelConfig, where: str) -> Family:
    """The first family that has the model's features, whether one from scratch can be written as it or not."""
    for family in FAMILIES:
        if _has_features(family, config):
            return family
    raise UserError(f"{where}: no architecture of Hugging Face is a LLaMA with {_told(config)}, and nothing else")


def _has_features(family: Family, config: ModelConfig) -> bool:
    return family.features <= features(config) <= family.features | family.also


def _told(config: ModelConfig) -> str:
    return " and ".join(sorted(features(config)))


def huggingface_config(
    config: ModelConfig, dtype: str, token_ids: Mapping[str, int | None], where: str
) -> dict[str, Any]:
    """config.json for a model trained from scratch, as the family that has its features; `dtype` is a key of DTYPES.

    `token_ids` are bos_token_id, eos_token_id and the like; those that are not known must be None, since
    transformers would assume 1 and 2 for absent ones.
    """
    family = family_for(config, where)
    assert family.write_config is not None
    values = {"architectures": [family.architecture], **family.write_config(config, where), **token_ids}
    values = with_checkpoint_facts(dict(sorted(values.items())), config, dtype, family)
    back = family.read_config(values, where)
    if math.isclose(back.embedding_scale, config.embedding_scale, rel_tol=2**-8):  # Gemma's is rounded to the dtype
        back = dataclasses.replace(back, scale_emb=config.scale_emb)
    if differing := differences(config, back):
        raise UserError(f"{where}: {family.architecture} is the nearest, and has not {'; '.join(differing)}")
    return values


def with_checkpoint_facts(values: dict[str, Any], config: ModelConfig, dtype: str, family: Family) -> dict[str, Any]:
    """`values` of a config.json with the dtype, tying and RoPE of the checkpoint, in the old and new spellings."""
    name = DTYPES[dtype].huggingface
    return {
        **values,
        **(hf_rope.written_rope(config, family.in_part) if family.names_rope else {}),
        "dtype": name,
        "tie_word_embeddings": config.tie_lm_head,
        "torch_dtype": name,
    }


def differences(first: ModelConfig, second: ModelConfig) -> list[str]:
    """In words, what differs between two configs and changes what the same weights compute."""
    in_words = _ROPE | _MUP | _WINDOWS
    told = [field.name for field in dataclasses.fields(first) if field.name not in in_words | _SHAPES | _TRAINING]
    names = [*told, *WORDS]
    return [
        f"{WORDS.get(name, name)} {getattr(first, name)} and {getattr(second, name)}"
        for name in names
        if getattr(first, name) != getattr(second, name)
    ]
