"""What a family of Hugging Face models is to conversion, and what families share in reading a config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fm9g.convert import hf_rope
from fm9g.convert.layouts import Layouts
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

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
    "experts_per_token": "num_experts_per_tok",
    "dim_expert": "moe_intermediate_size",
    "norm_expert_weights": "norm_topk_prob",
    "dim_shared_expert": "shared_expert_intermediate_size",
    "router_loss": "router_aux_loss_coef",
    **hf_rope.SPELLING,
}
# Where our config takes 0 for "as usual", theirs does not.
NEVER_ZERO = (*REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings", "dim_model_base")
DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
MUP_KEYS = ("scale_emb", "scale_depth", "dim_model_base")
# Theirs by ours; of several the first is written.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# Fields that no model of ours has, by the value that says so.
NEUTRAL: dict[str, Any] = {
    "attention_bias": False,
    "is_causal": True,
    "mlp_bias": False,
    "per_layer_config": None,
    "pruned_heads": {},
    "quantization_config": None,
    "sliding_window": None,
}


def vocabulary_rows(config: ModelConfig) -> dict[str, Any]:
    """What a config.json says of the rows of the embedding, in most families."""
    return {"vocab_size": config.vocab_size}


class Family(NamedTuple):
    """One value of config.json's `architectures`.

    `read_config(values, where)` gives the ModelConfig that a config.json describes; `write_config(config, where)`
    the keys for a model trained from scratch, but for dtype, token ids, tying and RoPE. A model is written as the first
    family whose `features` it has (see hf_config.features), and none but those that family may have (`also`).
    `model_type` is transformers' name of it, by which that chooses; None where its code is elsewhere. `names_rope`:
    whether its config.json has RoPE under transformers' keys, and `in_part` whether partial_rotary_factor is one.
    `rows(config)` gives the keys that say how many rows the embedding has, for a model that got more of them than the
    config.json says. For docs/models.md: `models` of it, the chat `templates` that these have, and the keys that must
    have one value, by it (`refused`).
    """

    architecture: str
    model_type: str | None
    features: frozenset[str]
    read_config: Callable[[dict[str, Any], str], ModelConfig]
    write_config: Callable[[ModelConfig, str], dict[str, Any]] | None
    layouts: Layouts
    also: frozenset[str] = frozenset()
    names_rope: bool = True
    in_part: bool = False
    models: str = ""
    templates: tuple[str, ...] = ()
    refused: Mapping[str, Any] = NEUTRAL
    rows: Callable[[ModelConfig], dict[str, Any]] = vocabulary_rows


def read_decoder(
    values: dict[str, Any],
    where: str,
    assumed: Mapping[str, Any] | None = None,
    neutral: Mapping[str, Any] = NEUTRAL,
    names: Mapping[str, str] | None = None,
    share: float | None = None,
    unread: Sequence[str] = (),
    **own: Any,
) -> ModelConfig:
    """The ModelConfig of a LLaMA-like config.json.

    `assumed` is what the family's configuration class has for keys that are left out or null, `neutral` what it must
    not say, and `own` are fields of ours beside those that every family has. Only a null num_key_value_heads is not
    as if left out: with every such class in transformers it is num_attention_heads. `names`: the family's own, by the
    usual ones, and `unread` usual ones that its code reads under no name: what they say is of no such model.
    `share`: of each head's dimensions, how many are rotated where partial_rotary_factor does not say it; None for a
    family that knows no such key.
    """
    refuse(values, neutral, where)
    names = names or {}
    own_names = {usual: values[own_name] for usual, own_name in names.items() if own_name in values}
    unread = (*unread, *(usual for usual in names if usual not in REQUIRED))  # sizes are held against the tensors
    values = {**without(values, *unread), **own_names}
    missing = [names.get(key, key) for key in REQUIRED if values.get(key) is None]
    if missing:
        raise UserError(f"{where}: missing key(s) {', '.join(missing)}")
    for key in NEVER_ZERO:
        if values.get(key) == 0:
            raise UserError(f"{where}: {names.get(key, key)} must be positive, not {values[key]!r}")
    given = {key: value for key, value in values.items() if value is not None}
    nulls = {"num_key_value_heads": values["num_attention_heads"]} if "num_key_value_heads" in values else {}
    values = {**DEFAULTS, **(assumed or {}), **nulls, **given}
    activation = values["hidden_act"]
    settings = {ours: values[theirs] for theirs, ours in REQUIRED.items()}
    settings |= {
        "num_kv_heads": values.get("num_key_value_heads", values["num_attention_heads"]),
        "dim_head": values.get("head_dim") or _head_dim(values, where),
        "activate_fn": ACTIVATIONS.get(activation, activation) if isinstance(activation, str) else activation,
        "eps": values["rms_norm_eps"],
        "init_std": values["initializer_range"],
        "max_length": values["max_position_embeddings"],
        "tie_lm_head": values["tie_word_embeddings"],
    }
    rope = hf_rope.read_rope(values, where) | _partial(values, share, settings["dim_head"], where)
    spelling = {ours: names.get(theirs, theirs) for ours, theirs in SPELLING.items()}
    return ModelConfig.from_dict(settings | rope | _mup(values, where) | own, where, spelling)


def _partial(values: dict[str, Any], assumed: float | None, dim_head: Any, where: str) -> dict[str, int]:
    """The dimensions of a head that are rotated, if not all; as transformers rounds them."""
    share = hf_rope.rotary_share(values, where)
    if assumed is None:
        refuse({hf_rope.SHARE: share}, {hf_rope.SHARE: 1.0}, where)
        return {}
    share = assumed if share is None else share
    return {"rotary_dim": int(dim_head * share)} if share != 1 and isinstance(dim_head, int) else {}


def without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """All but these keys."""
    return {key: value for key, value in values.items() if key not in keys}


def read_flag(values: Mapping[str, Any], key: str, usual: bool, where: str) -> bool:
    """True or false; `usual` where it is left out or null."""
    value = usual if values.get(key) is None else values[key]
    if value is not True and value is not False:
        raise UserError(f"{where}: {key} must be true or false, not {shown(value)}")
    return value


def require_rope(config: ModelConfig, kinds: Sequence[str], family: Family, where: str) -> None:
    """A UserError for RoPE scaling of a kind that a family's code does not know."""
    if config.rope_scaling_type not in kinds:
        known = ", ".join(kind for kind in kinds if kind)
        raise UserError(
            f"{where}: RoPE scaling {config.rope_scaling_type!r} is unknown to {family.architecture}'s code (only "
            f"{known})"
        )


def refuse_mup(values: dict[str, Any], architecture: str, where: str) -> None:
    """A UserError for muP's keys in the config.json of a family whose code does not know them."""
    for key in MUP_KEYS:
        if values.get(key) is not None:
            raise UserError(f"{where}: {key} means nothing to a {architecture} in transformers: remove it")


def refuse(values: dict[str, Any], neutral: Mapping[str, Any], where: str) -> None:
    """A UserError that names the first of the fields that says anything else than its neutral value."""
    for key, value in neutral.items():
        given = values.get(key, value)
        if given != value and (given is not None or key == "is_causal"):  # whose null transformers takes for false
            raise UserError(f"{where}: {key}={shown(values[key])} is not supported: our model has no such thing")


def _mup(values: dict[str, Any], where: str) -> dict[str, Any]:
    """muP's fields, which old checkpoints have as LLaMAs too: all of them, or none."""
    present = [key for key in MUP_KEYS if values.get(key) is not None]
    if present and len(present) < len(MUP_KEYS):
        raise UserError(f"{where}: {', '.join(present)} given, but all of {', '.join(MUP_KEYS)} are needed")
    if present and isinstance(depth := values["scale_depth"], int | float) and depth <= 0:
        raise UserError(f"{where}: scale_depth must be above 0, not {depth}: it multiplies every residual branch")
    return {"scale": True, **{key: values[key] for key in MUP_KEYS}} if present else {}


def _head_dim(values: dict[str, Any], where: str) -> int:
    size, heads = values["hidden_size"], values["num_attention_heads"]
    if not isinstance(size, int) or not isinstance(heads, int) or heads <= 0 or size % heads:
        raise UserError(
            f"{where}: head_dim is not given, and hidden_size ({shown(size)}) is not a multiple of "
            f"num_attention_heads ({shown(heads)})"
        )
    return size // heads


def written_decoder(config: ModelConfig) -> dict[str, Any]:
    """The keys that every family's config.json has."""
    return {
        "attention_dropout": 0.0,
        "hidden_act": written_activation(config),
        "hidden_size": config.dim_model,
        "initializer_range": config.init_std,
        "intermediate_size": config.dim_ff,
        "max_position_embeddings": config.max_length,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.eps,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def written_activation(config: ModelConfig) -> str:
    """transformers' name of the activation."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activate_fn)


def require_usual_heads(config: ModelConfig, family: str, where: str) -> None:
    """A UserError for heads that a family without head_dim cannot have."""
    if config.dim_head * config.num_heads != config.dim_model:
        raise UserError(f"{where}: {family} has no head_dim: dim_head * num_heads must be dim_model")
