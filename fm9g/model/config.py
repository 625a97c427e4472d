"""The shape of a model: model_configs/*.json and its checks."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from typing import Any

from fm9g.errors import UserError, closest, shown
from fm9g.files import read_json, write_json
from fm9g.model.json_values import in_json, typed
from fm9g.model.rope_kinds import FREQUENCY_BOUNDS, ROPE_SCALINGS, longrope_magnitude, yarn_magnitude

DTYPES = ("bf16", "fp16", "float32")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
NORMS = ("rms", "rms_1p", "layer")
POSITIONS = ("rotary", "alibi")
MAX_LAYERS = 10_000
LARGEST_BASE = 2.0**127
ALIBI_LENGTH = 2**16  # the places that two digits of eight bits can tell apart
SIZES = (
    *("vocab_size", "dim_model", "num_heads", "num_kv_heads", "dim_head", "dim_ff", "num_layers"),
    *("max_length", "orig_max_length", "dim_model_base"),
)
EXPERT_SIZES = ("num_experts", "experts_per_token", "dim_expert", "dim_shared_expert")
# What each value must be, and the words for it.
LIMITS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (SIZES, lambda size: size > 0, "positive"),
    (SIZES, lambda size: size < 2**31, "below 2^31"),
    (("num_layers",), lambda layers: layers <= MAX_LAYERS, "at most 10000"),
    (
        ("eps", "rope_scaling_factor", *(f"rope_scaling_{name}" for name in FREQUENCY_BOUNDS)),
        lambda value: 0 < value < math.inf,
        "a positive number",
    ),
    (("base",), lambda base: 1 <= base < LARGEST_BASE, "a number from 1 on that a float32 can hold"),
    (("init_std", "rope_scaling_attention_factor"), lambda value: 0 <= value < math.inf, "a number from 0 on"),
    (
        ("rotary_dim", "sliding_window", "attention_scale", "attention_softcap", "logit_softcap"),
        lambda value: 0 <= value < math.inf,
        "a number from 0 on",
    ),
    (("dropout_p",), lambda share: 0 <= share < 1, "a share from 0 to below 1"),
    (("scale_emb", "scale_depth", "pose_scaling_factor"), math.isfinite, "a finite number"),
    (EXPERT_SIZES, lambda size: 0 <= size < 2**31, "a number from 0 to below 2^31"),
    (("num_experts",), lambda experts: experts <= 10_000, "at most 10000"),
    (("router_loss",), lambda factor: 0 <= factor < math.inf, "a number from 0 on"),
)

_SCALING_FIELDS = {name for names in ROPE_SCALINGS.values() for name in names if name.startswith("rope_scaling_")}


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape. Field names are the keys of model_configs/*.json.

    With `scale` the model is muP (MiniCPM's, https://arxiv.org/abs/2404.06395, section 3): embeddings times
    scale_emb, residual branches times scale_depth / sqrt(num_layers), hidden states before the head
    divided by dim_model / dim_model_base. A scale_depth <= 0 leaves residual branches as they are; without
    `scale` too it is a LLaMA.
    """

    vocab_size: int
    dim_model: int
    num_heads: int
    num_layers: int
    dim_ff: int
    num_kv_heads: int = 0  # 0: as many as num_heads
    dim_head: int = 0  # 0: dim_model / num_heads
    dropout_p: float = 0.0
    activate_fn: str = "silu"
    eps: float = 1e-5
    init_std: float = 0.02
    dtype: str = "bf16"
    base: float = 10000.0
    tie_lm_head: bool = False
    max_length: int = 4096
    scale: bool = False
    scale_emb: float = 1.0
    scale_depth: float = -1.0
    dim_model_base: int = 0  # 0: dim_model
    norm: str = "rms"  # rms; rms_1p, whose weight is what 1 is raised by; or layer, with a bias
    embedding_norm: bool = False  # a norm of the embeddings
    branch_norm: bool = False  # a norm of what attention and feed-forward give, before it is added
    position: str = "rotary"  # rotary, or alibi
    rotary_dim: int = 0  # the first dimensions of each head, which are rotated; 0: all
    qkv_bias: bool = False
    out_bias: bool = False  # of attention_out
    ffn_bias: bool = False
    qk_norm: bool = False  # norms of the queries' and the keys' heads, before they are rotated
    attention_scale: float = 0.0  # of queries times keys; 0: 1 / sqrt(dim_head)
    attention_softcap: float = 0.0  # scores become softcap * tanh(score / softcap); 0: they stay
    sliding_window: int = 0  # the last tokens that a token attends to, itself among them; 0: all
    sliding_layers: tuple[int, ...] = ()  # the layers with a sliding window; (): all
    head_norm: bool = False  # the rows of the head's weight are divided by their lengths
    logit_softcap: float = 0.0
    ffn_gated: bool = True
    num_experts: int = 0  # feed-forward layers among which a router chooses for each token; 0: one, without a router
    experts_per_token: int = 0
    dim_expert: int = 0  # of an expert, as dim_ff is of a feed-forward layer; 0: dim_ff
    norm_expert_weights: bool = False  # whether the weights of a token's experts sum to 1
    dim_shared_expert: int = 0  # of the expert that every token has besides, behind a gate; 0: none
    router_loss: float = 0.0  # what the routers' balance counts in the loss, per unit; 0: nothing
    rope_scaling_type: str = ""
    rope_scaling_factor: float = 1.0
    rope_scaling_low_freq_factor: float = 1.0  # llama3: the turns in orig_max_length below which all is stretched
    rope_scaling_high_freq_factor: float = 4.0  # llama3: those above which nothing is
    rope_scaling_beta_fast: float = 32.0  # yarn: the turns in orig_max_length from which on nothing is stretched
    rope_scaling_beta_slow: float = 1.0  # yarn: those up to which all is
    rope_scaling_truncate: bool = True  # yarn: whether the bounds between are whole dimensions
    rope_scaling_attention_factor: float = 0.0  # yarn, longrope: of cos and sin; 0: as their papers have it
    rope_scaling_short_factors: tuple[float, ...] = ()  # longrope: what each frequency is divided by up to a max_length
    rope_scaling_long_factors: tuple[float, ...] = ()  # of orig_max_length, and beyond; rotated / 2 of either
    orig_max_length: int = 0  # 0: max_length
    pose_prob: float = 0.0
    pose_scaling_factor: float = 1.0
    spelling: InitVar[Mapping[str, str] | None] = None  # of the keys in errors, for a config read from another's file

    def __post_init__(self, spelling: Mapping[str, str] | None) -> None:
        derived = {
            "num_kv_heads": self.num_heads,
            "dim_head": self.dim_model // self.num_heads if self.num_heads > 0 else 0,
            "dim_model_base": self.dim_model,
            "orig_max_length": self.max_length,
            "dim_expert": self.dim_ff if self.num_experts else 0,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, getattr(self, name) or value)
        for name, value in self._usual().items():
            object.__setattr__(self, name, value)
        self._check({name: (spelling or {}).get(name, name) for name in vars(self)})

    def _usual(self) -> dict[str, Any]:
        """Where equal models could be spelt in several ways, the one spelling that they get."""
        found: dict[str, Any] = {}
        if self.rotary_dim == self.dim_head:
            found["rotary_dim"] = 0
        if 0 < self.dim_head < 2**31 and math.isclose(
            self.attention_scale, 1 / math.sqrt(self.dim_head), rel_tol=1e-12
        ):
            found["attention_scale"] = 0.0
        if len(self.sliding_layers) == self.num_layers:
            found["sliding_layers"] = ()
        return found

    def _check(self, key: dict[str, str]) -> None:
        """Refuse what no model can have; `key` gives each field's name in errors."""
        for names, allows, words in LIMITS:
            for name in names:
                if not allows(getattr(self, name)):
                    raise UserError(f"{key[name]} must be {words}, not {shown(getattr(self, name))}")
        if self.num_heads % self.num_kv_heads:
            heads, kv_heads = (f"{key[name]} ({getattr(self, name)})" for name in ("num_heads", "num_kv_heads"))
            raise UserError(f"{heads} is not a multiple of {kv_heads}")
        self._check_positions(key)
        for name, allowed in (
            ("dtype", DTYPES),
            ("activate_fn", ACTIVATIONS),
            ("norm", NORMS),
            ("position", POSITIONS),
            ("rope_scaling_type", ROPE_SCALINGS),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise UserError(f"{key[name]} must be one of {choices}, not {shown(getattr(self, name))}")
        self._check_scaling(key)
        self._check_experts(key)
        if self.pose_prob:
            raise UserError(f"{key['pose_prob']}={self.pose_prob} is not supported: no published FM9G model uses it")

    def _check_positions(self, key: dict[str, str]) -> None:
        """Rotary embeddings or ALiBi, and which tokens each attends to."""
        if self.position == "alibi":
            for name in ("rotary_dim", "rope_scaling_type", "base"):
                if getattr(self, name) != DEFAULTS[name]:
                    raise UserError(f"{key[name]} means nothing to {key['position']} 'alibi', which rotates nothing")
            if self.attention_softcap:  # scores are raised by the same for all keys, which a cap does not leave so
                raise UserError(f"{key['attention_softcap']} is not supported with {key['position']} 'alibi'")
            if self.max_length > ALIBI_LENGTH:
                raise UserError(f"{key['max_length']} must be at most {ALIBI_LENGTH} with {key['position']} 'alibi'")
        elif self.rotated % 2:
            name = "rotary_dim" if self.rotary_dim else "dim_head"
            raise UserError(f"{key[name]} must be even and positive for rotary embeddings, not {self.rotated}")
        if self.rotary_dim > self.dim_head:
            raise UserError(f"{key['rotary_dim']} {self.rotary_dim} is above {key['dim_head']} {self.dim_head}")
        if self.sliding_layers and not self.sliding_window:
            raise UserError(f"{key['sliding_layers']} means nothing without {key['sliding_window']}")
        if self.sliding_layers and not set(self.sliding_layers) <= set(range(self.num_layers)):
            raise UserError(f"{key['sliding_layers']} must be of the layers 0 to {self.num_layers - 1}")

    def _check_experts(self, key: dict[str, str]) -> None:
        if not self.num_experts:
            for name in (*EXPERT_SIZES, "norm_expert_weights", "router_loss"):
                if getattr(self, name):
                    raise UserError(f"{key[name]} means nothing without {key['num_experts']}")
            return
        for name, usual in (("ffn_gated", True), ("ffn_bias", False), ("branch_norm", False)):
            if getattr(self, name) != usual:
                raise UserError(f"{key[name]}={getattr(self, name)} is not supported with {key['num_experts']}")
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise UserError(
                f"{key['experts_per_token']} must be from 1 to {key['num_experts']} ({self.num_experts}), not "
                f"{self.experts_per_token}"
            )

    def _check_scaling(self, key: dict[str, str]) -> None:
        kind = self.rope_scaling_type
        for field in dataclasses.fields(self):
            means = field.name in ROPE_SCALINGS[kind] or field.name == "rope_scaling_factor"
            if field.name in _SCALING_FIELDS and not means and getattr(self, field.name) != field.default:
                raise UserError(f"{key[field.name]} means nothing to {key['rope_scaling_type']} {kind!r}")
        if kind not in ("", "linear") and self.rope_scaling_factor < 1:
            raise UserError(f"{key['rope_scaling_factor']} must be at least 1, not {self.rope_scaling_factor:g}")
        if kind == "dynamic":
            self._check_dynamic(key)
        for scaling, low, high in (
            ("llama3", "low_freq_factor", "high_freq_factor"),
            ("yarn", "beta_slow", "beta_fast"),
        ):
            less, more = f"rope_scaling_{low}", f"rope_scaling_{high}"
            if kind == scaling and getattr(self, less) >= getattr(self, more):
                raise UserError(f"{key[more]} must be above {key[less]} ({getattr(self, less):g})")
        if kind == "yarn" and self.base <= 1:
            raise UserError(f"{key['base']} must be above 1 for {key['rope_scaling_type']} 'yarn', not {self.base:g}")
        if kind == "longrope":
            self._check_longrope(key)

    def _check_dynamic(self, key: dict[str, str]) -> None:
        if self.rotated == 2:
            name = "rotary_dim" if self.rotary_dim else "dim_head"
            raise UserError(f"{key[name]} must be above 2 for {key['rope_scaling_type']} 'dynamic'")
        try:
            fits = self.rotary_base < LARGEST_BASE
        except OverflowError:
            fits = False
        if not fits:
            raise UserError(
                f"{key['rope_scaling_factor']} {self.rope_scaling_factor:g} raises {key['base']} {self.base:g} beyond "
                "what a float32 can hold"
            )

    def _check_longrope(self, key: dict[str, str]) -> None:
        if self.orig_max_length < 2:
            raise UserError(f"{key['orig_max_length']} must be above 1 for {key['rope_scaling_type']} 'longrope'")
        for name in ("rope_scaling_short_factors", "rope_scaling_long_factors"):
            factors = getattr(self, name)
            if len(factors) != self.rotated // 2:
                raise UserError(
                    f"{key[name]} must be {self.rotated // 2} numbers, one for each pair of a head's rotated "
                    f"dimensions, not {len(factors)}"
                )
            if not all(0 < factor < math.inf for factor in factors):
                raise UserError(f"{key[name]} must be positive numbers, not {shown(list(factors))}")

    @property
    def rotated(self) -> int:
        """The dimensions of each head that are rotated: the first ones."""
        return self.rotary_dim or self.dim_head

    @property
    def windows(self) -> tuple[int, ...]:
        """By layer, how many of the last tokens, itself among them, a token attends to; 0: all of its document, as
        where max_length is no more than the window."""
        window = self.sliding_window if self.sliding_window < self.max_length else 0
        return tuple(
            window if not self.sliding_layers or layer in self.sliding_layers else 0 for layer in range(self.num_layers)
        )

    @property
    def rotary_base(self) -> float:
        """The base that positions are rotated with: `dynamic` raises `base` once and for all, for max_length.

        NTK-aware scaling: the base of transformers' `dynamic` RoPE for a text of max_length tokens, where
        max_position_embeddings is orig_max_length. Up to that length it is `base` itself.
        """
        if self.rope_scaling_type != "dynamic" or self.max_length <= self.orig_max_length:
            return self.base
        stretch = self.rope_scaling_factor * self.max_length / self.orig_max_length - (self.rope_scaling_factor - 1)
        return self.base * stretch ** (self.rotated / (self.rotated - 2))

    @property
    def rope_factors(self) -> tuple[float, ...]:
        """What `longrope` divides each frequency by, [rotated / 2]: one set for every text, chosen by max_length."""
        long = self.max_length > self.orig_max_length
        return self.rope_scaling_long_factors if long else self.rope_scaling_short_factors

    @property
    def reaches_further(self) -> bool:
        """Whether a larger max_length would change what `longrope` computes of every text."""
        return self.rope_factors != self.rope_scaling_long_factors

    @property
    def position_scale(self) -> float:
        """What positions are divided by: the factor of `linear` RoPE scaling."""
        return self.rope_scaling_factor if self.rope_scaling_type == "linear" else 1.0

    @property
    def attention_factor(self) -> float:
        """What cos and sin of rotary angles are multiplied by, and so attention scores by its square."""
        if self.rope_scaling_type == "yarn":
            return self.rope_scaling_attention_factor or yarn_magnitude(self.rope_scaling_factor)
        if self.rope_scaling_type == "longrope":
            usual = longrope_magnitude(self.rope_scaling_factor, self.orig_max_length)
            return self.rope_scaling_attention_factor or usual
        return 1.0

    @property
    def frequency_scaling(self) -> str:
        """In words, how `llama3`, `yarn` or `longrope` changes frequencies."""
        if self.rope_scaling_type == "longrope":
            return f"longrope (attention factor {self.attention_factor}, factors {list(self.rope_factors)})"
        if self.rope_scaling_type not in ("llama3", "yarn"):
            return "none"
        said = (f"{name} {getattr(self, name)}" for name in ROPE_SCALINGS[self.rope_scaling_type])
        return f"{self.rope_scaling_type} ({', '.join(said)})"

    @property
    def residual_scale(self) -> float:
        """What each residual branch is multiplied by."""
        return self.scale_depth / math.sqrt(self.num_layers) if self.scale_depth > 0 else 1.0

    @property
    def embedding_scale(self) -> float:
        """What token embeddings are multiplied by."""
        return self.scale_emb if self.scale else 1.0

    @property
    def width_ratio(self) -> float:
        """dim_model / dim_model_base with muP, else 1: divides head inputs and matrix learning rates."""
        return self.dim_model / self.dim_model_base if self.scale else 1.0

    @classmethod
    def from_dict(
        cls, values: dict[str, Any], where: str = "model config", spelling: Mapping[str, str] | None = None
    ) -> ModelConfig:
        """Build a config; an unknown, missing, ill-typed or impossible value is a UserError that names it and `where`.

        `spelling` gives the keys that the user's file has for ours, where they differ.
        """
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected a JSON object of settings, found {type(values).__name__}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in fields:
                raise UserError(f"{where}: unknown key {name!r}{closest(name, fields)}")
            key = (spelling or {}).get(name, name)
            values = {**values, name: typed(where, key, value, str(fields[name].type))}
        required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise UserError(f"{where}: missing key(s) {', '.join(missing)}")
        try:
            return cls(**values, spelling=spelling)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> ModelConfig:
        """Read model_configs/*.json."""
        return cls.from_dict(read_json(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Every field, in JSON's types."""
        return {name: in_json(value) for name, value in dataclasses.asdict(self).items()}

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write every field, so that a later change of a default does not change this model."""
        write_json(path, self.to_dict())


# Of the fields that have any, in JSON's types; 0 may stand for a value that others give
DEFAULTS = {
    field.name: in_json(field.default)
    for field in dataclasses.fields(ModelConfig)
    if field.default is not dataclasses.MISSING
}
