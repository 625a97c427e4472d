"""Hugging Face's config.json <-> ModelConfig.

config.json is read as plain JSON: neither transformers nor a checkpoint's own Python files have a say.
How a config's RoPE is read and written is in fm9g/convert/hf_rope.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fm9g.convert import hf_rope
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig
from fm9g.tensors.lazy import DTYPES

# Each family with what its configuration class assumes of keys that config.json leaves out.
FAMILIES = {
    "LlamaForCausalLM": {"tie_word_embeddings": False},
    "MiniCPMForCausalLM": {"tie_word_embeddings": True},
    "FM9GForCausalLM": {"tie_word_embeddings": True},
}
DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 2048,
}
REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "dim_ff",
}
# Theirs by ours, for errors that name the key of the user's own file.
SPELLING = {
    **{ours: theirs for theirs, ours in REQUIRED.items()},
    "num_kv_heads": "num_key_value_heads",
    "dim_head": "head_dim",
    "activate_fn": "hidden_act",
    "eps": "rms_norm_eps",
    "init_std": "initializer_range",
    "max_length": "max_position_embeddings",
    "tie_lm_head": "tie_word_embeddings",
    **hf_rope.SPELLING,
}
# Where our config takes 0 for "as usual", theirs does not.
NEVER_ZERO = (*REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings", "dim_model_base")
# What no file has a key for is compared as it comes out, and told in words.
WORDS = {
    "rotary_base": "RoPE base",
    "position_scale": "RoPE scaling factor",
    "embedding_scale": "embedding scale (muP)",
    "residual_scale": "residual scale (muP)",
    "width_ratio": "width ratio (muP)",
}
MUP_KEYS = ("scale_emb", "scale_depth", "dim_model_base")
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu"}


def model_config_from_huggingface(values: Any, where: str) -> ModelConfig:
    """The ModelConfig that config.json's `values` describe; `where` names the file in errors.

    The dtype is left at its default: what the tensors are, config.json does not decide.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(values).__name__}")
    family = _family(values, where)
    _refuse_unsupported(values, where)
    missing = [key for key in REQUIRED if values.get(key) is None]
    if missing:
        raise UserError(f"{where}: missing key(s) {', '.join(missing)}")
    for key in NEVER_ZERO:
        if values.get(key) == 0:
            raise UserError(f"{where}: {key} must be positive, not {values[key]!r}")
    values = {**DEFAULTS, **FAMILIES[family], **{key: value for key, value in values.items() if value is not None}}
    get = values.get
    activation = get("hidden_act")
    settings = {ours: values[theirs] for theirs, ours in REQUIRED.items()}
    settings |= {
        "num_kv_heads": get("num_key_value_heads", get("num_attention_heads")),
        "dim_head": get("head_dim") or _head_dim(values, where),
        "activate_fn": ACTIVATIONS.get(activation, activation) if isinstance(activation, str) else activation,
        "eps": get("rms_norm_eps"),
        "init_std": get("initializer_range"),
        "max_length": get("max_position_embeddings"),
        "tie_lm_head": get("tie_word_embeddings"),
    }
    settings |= hf_rope.read_rope(values, where) | _mup(values, family, where)
    return ModelConfig.from_dict(settings, where, SPELLING)


def _family(values: dict[str, Any], where: str) -> str:
    architectures = values.get("architectures") or []
    for family in FAMILIES:
        if architectures == [family]:
            return family
    raise UserError(
        f"{where}: architectures is {shown(architectures)}; this tool converts one of {', '.join(FAMILIES)}"
    )


def _refuse_unsupported(values: dict[str, Any], where: str) -> None:
    for key, neutral in (
        ("attention_bias", False),
        ("mlp_bias", False),
        ("partial_rotary_factor", 1.0),
        ("quantization_config", None),
        ("sliding_window", None),
    ):
        if values.get(key) not in (neutral, None):
            raise UserError(f"{where}: {key}={shown(values[key])} is not supported: our model has no such thing")


def _head_dim(values: dict[str, Any], where: str) -> int:
    size, heads = values["hidden_size"], values["num_attention_heads"]
    if not isinstance(size, int) or not isinstance(heads, int) or heads <= 0 or size % heads:
        raise UserError(
            f"{where}: head_dim is not given, and hidden_size ({shown(size)}) is not a multiple of "
            f"num_attention_heads ({shown(heads)})"
        )
    return size // heads


def _mup(values: dict[str, Any], family: str, where: str) -> dict[str, Any]:
    present = [key for key in MUP_KEYS if values.get(key) is not None]
    if present and len(present) < len(MUP_KEYS):
        raise UserError(f"{where}: {', '.join(present)} given, but all of {', '.join(MUP_KEYS)} are needed")
    if family == "MiniCPMForCausalLM" and not present:
        raise UserError(f"{where}: a MiniCPMForCausalLM config needs {', '.join(MUP_KEYS)}")
    if present and isinstance(depth := values["scale_depth"], int | float) and depth <= 0:
        raise UserError(f"{where}: scale_depth must be above 0, not {depth}: it multiplies every residual branch")
    return {"scale": True, **{key: values[key] for key in MUP_KEYS}} if present else {}


def huggingface_config(
    config: ModelConfig, dtype: str, token_ids: Mapping[str, int | None], where: str
) -> dict[str, Any]:
    """config.json for a model trained from scratch: a LLaMA, or with muP a MiniCPM; `dtype` is a key of DTYPES.

    `token_ids` are bos_token_id, eos_token_id and the like; those that are not known must be None, since
    transformers would assume 1 and 2 for absent ones.
    """
    scaled = config.scale or config.scale_depth > 0
    values = {
        "architectures": ["MiniCPMForCausalLM" if scaled else "LlamaForCausalLM"],
        "model_type": "minicpm" if scaled else "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        **dict(sorted(token_ids.items())),
        "head_dim": config.dim_head,
        "hidden_act": config.activate_fn,
        "hidden_size": config.dim_model,
        "initializer_range": config.init_std,
        "intermediate_size": config.dim_ff,
        "max_position_embeddings": config.max_length,
        "mlp_bias": False,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.eps,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if scaled:
        if config.dim_head * config.num_heads != config.dim_model:
            raise UserError(f"{where}: MiniCPM has no head_dim: dim_head * num_heads must be dim_model")
        values |= {
            "scale_emb": config.embedding_scale,
            "scale_depth": config.scale_depth if config.scale_depth > 0 else math.sqrt(config.num_layers),
            "dim_model_base": config.dim_model_base if config.scale else config.dim_model,
        }
    return with_checkpoint_facts(values, config, dtype)


def with_checkpoint_facts(values: dict[str, Any], config: ModelConfig, dtype: str) -> dict[str, Any]:
    """`values` of a config.json with the dtype, tying and RoPE of the checkpoint, in the old and new spellings."""
    name = DTYPES[dtype].huggingface
    return {
        **values,
        **hf_rope.written_rope(config),
        "dtype": name,
        "tie_word_embeddings": config.tie_lm_head,
        "torch_dtype": name,
    }


def differences(first: ModelConfig, second: ModelConfig) -> list[str]:
    """In words, what differs between two configs and changes what the same weights compute."""
    names = [
        "num_heads",
        "num_kv_heads",
        "dim_head",
        "activate_fn",
        "eps",
        "rotary_base",
        "position_scale",
        "tie_lm_head",
        "embedding_scale",
        "residual_scale",
        "width_ratio",
    ]
    return [
        f"{WORDS.get(name, name)} {getattr(first, name)} and {getattr(second, name)}"
        for name in names
        if getattr(first, name) != getattr(second, name)
    ]
