"""Hugging Face's config.json <-> ModelConfig.

config.json is read as plain JSON: neither transformers nor a checkpoint's own Python files have a say.
RoPE has two spellings, rope_theta with rope_scaling (transformers 4) and rope_parameters (transformers 5):
either is read, both are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fm9g.convert.lazy import DTYPES
from fm9g.errors import UserError
from fm9g.model.config import ROPE_SCALINGS, ModelConfig

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
    "rope_theta": 10000.0,
}
REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "dim_ff",
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

    def get(key: str) -> Any:
        value = values.get(key)
        return {**DEFAULTS, **FAMILIES[family]}[key] if value is None else value

    settings = {ours: values[theirs] for theirs, ours in REQUIRED.items()}
    settings |= {
        "num_kv_heads": values.get("num_key_value_heads") or values["num_attention_heads"],
        "dim_head": values.get("head_dim") or _head_dim(values, where),
        "activate_fn": ACTIVATIONS.get(get("hidden_act"), get("hidden_act")),
        "eps": get("rms_norm_eps"),
        "init_std": get("initializer_range"),
        "max_length": get("max_position_embeddings"),
        "tie_lm_head": get("tie_word_embeddings"),
    }
    return ModelConfig.from_dict({**settings, **_rope(values, where), **_mup(values, family, where)}, where)


def _family(values: dict[str, Any], where: str) -> str:
    architectures = values.get("architectures") or []
    if len(architectures) != 1 or architectures[0] not in FAMILIES:
        raise UserError(f"{where}: architectures is {architectures!r}; this tool converts one of {', '.join(FAMILIES)}")
    return architectures[0]


def _refuse_unsupported(values: dict[str, Any], where: str) -> None:
    for key, neutral in (
        ("attention_bias", False),
        ("mlp_bias", False),
        ("partial_rotary_factor", 1.0),
        ("quantization_config", None),
        ("sliding_window", None),
    ):
        if values.get(key) not in (neutral, None):
            raise UserError(f"{where}: {key}={values[key]!r} is not supported: our model has no such thing")


def _head_dim(values: dict[str, Any], where: str) -> int:
    size, heads = values["hidden_size"], values["num_attention_heads"]
    if not isinstance(size, int) or not isinstance(heads, int) or heads <= 0 or size % heads:
        raise UserError(
            f"{where}: head_dim is not given, and hidden_size ({size!r}) is not a multiple of "
            f"num_attention_heads ({heads!r})"
        )
    return size // heads


def _rope(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Our RoPE settings; which spelling says what is checked for contradictions."""
    old = {key: value for key, value in (values.get("rope_scaling") or {}).items() if value is not None}
    new = {key: value for key, value in (values.get("rope_parameters") or {}).items() if value is not None}
    if values.get("rope_theta") is not None:
        old.setdefault("rope_theta", values["rope_theta"])
    for spelling in (old, new):
        if "type" in spelling:
            spelling.setdefault("rope_type", spelling.pop("type"))
    for key in old.keys() & new.keys():
        if old[key] != new[key]:
            raise UserError(
                f"{where}: rope_parameters says {key}={new[key]!r}, but rope_theta and rope_scaling say {old[key]!r}"
            )
    rope = {**old, **new}
    kind = rope.get("rope_type", "default")
    kind = "" if kind == "default" else kind
    if kind not in ROPE_SCALINGS:
        raise UserError(f"{where}: RoPE scaling {kind!r} is not supported (only linear and dynamic are)")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{where}: partial_rotary_factor={rope['partial_rotary_factor']!r} is not supported")
    if any(isinstance(value, dict) for value in rope.values()):
        raise UserError(f"{where}: RoPE parameters that differ between layers are not supported")
    if kind and "factor" not in rope:
        raise UserError(f"{where}: RoPE scaling {kind!r} has no factor")
    original = rope.get("original_max_position_embeddings") if kind else None
    return {
        "base": rope.get("rope_theta", DEFAULTS["rope_theta"]),
        "rope_scaling_type": kind,
        "rope_scaling_factor": rope["factor"] if kind else 1.0,
        **({"orig_max_length": original} if original else {}),
    }


def _mup(values: dict[str, Any], family: str, where: str) -> dict[str, Any]:
    present = [key for key in MUP_KEYS if values.get(key) is not None]
    if present and len(present) < len(MUP_KEYS):
        raise UserError(f"{where}: {', '.join(present)} given, but all of {', '.join(MUP_KEYS)} are needed")
    if family == "MiniCPMForCausalLM" and not present:
        raise UserError(f"{where}: a MiniCPMForCausalLM config needs {', '.join(MUP_KEYS)}")
    return {"scale": True, **{key: values[key] for key in MUP_KEYS}} if present else {}


def huggingface_config(
    config: ModelConfig, dtype: str, token_ids: Mapping[str, int | None], where: str
) -> dict[str, Any]:
    """config.json for a model trained from scratch: a LLaMA, or with muP a MiniCPM; `dtype` is a key of DTYPES.

    `token_ids` are bos_token_id, eos_token_id and the like; those that are not known must be None, since
    transformers would assume 1 and 2 for absent ones.
    """
    scaled = config.scale or config.scale_depth > 0
    dynamic = config.rope_scaling_type == "dynamic"
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
        # In Hugging Face's dynamic scaling this is the length that was trained before scaling.
        "max_position_embeddings": config.orig_max_length if dynamic else config.max_length,
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
            "scale_depth": config.scale_depth,
            "dim_model_base": config.dim_model_base if config.scale else config.dim_model,
        }
    return with_checkpoint_facts(values, config, dtype)


def with_checkpoint_facts(values: dict[str, Any], config: ModelConfig, dtype: str) -> dict[str, Any]:
    """`values` of a config.json with the dtype, tying and RoPE of the checkpoint, in the old and new spellings."""
    scaling: dict[str, Any] = {}
    if config.rope_scaling_type:
        scaling = {"factor": config.rope_scaling_factor}
    rope_type = config.rope_scaling_type or "default"
    parameters = {"rope_theta": config.base, "rope_type": rope_type, **scaling}
    if config.rope_scaling_type and config.orig_max_length != config.max_length:
        parameters["original_max_position_embeddings"] = config.orig_max_length
    name = DTYPES[dtype].huggingface
    return {
        **values,
        "dtype": name,
        "rope_parameters": parameters,
        # Two keys and no more: transformers 4.36 and MiniCPM's own code refuse anything else.
        "rope_scaling": {"type": rope_type, **scaling} if scaling else None,
        "rope_theta": config.base,
        "tie_word_embeddings": config.tie_lm_head,
        "torch_dtype": name,
    }


def differences(first: ModelConfig, second: ModelConfig) -> list[str]:
    """The names of what differs between two configs and changes what the same weights compute."""
    names = [
        "num_heads",
        "num_kv_heads",
        "dim_head",
        "activate_fn",
        "eps",
        "base",
        "tie_lm_head",
        "rope_scaling_type",
        "rope_scaling_factor",
        "embedding_scale",
        "residual_scale",
        "width_ratio",
    ]
    return [
        f"{name} {getattr(first, name)} and {getattr(second, name)}"
        for name in names
        if getattr(first, name) != getattr(second, name)
    ]
