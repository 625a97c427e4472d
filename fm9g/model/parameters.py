"""Every tensor of a model: the one place that knows their names, shapes and roles.

Counting, memory and FLOPs estimates, conversion and muP's learning rates all read this table; the modules that make
the tensors are held against it by a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from fm9g.model.config import ModelConfig
from fm9g.model.expert_parameters import NamedAxes, expert_sizes, expert_tensors

LAYERS = "encoder.layers."
EMBEDDING, HEAD = "input_embedding.weight", "lm_head.weight"
# (name in a block, axes), the projections without .weight; an axis is a key of `sizes`. A linear weight is (out, in).
NORM_BEFORE_ATTENTION: NamedAxes = ("self_att.layernorm_before_attention.weight", ("dim",))
PROJECTIONS: tuple[NamedAxes, ...] = tuple(
    (f"self_att.self_attention.project_{name}", (axis, "dim")) for name, axis in (("q", "q"), ("k", "kv"), ("v", "kv"))
)
HEAD_NORMS: tuple[NamedAxes, ...] = tuple(
    (f"self_att.self_attention.{name}.weight", ("head",)) for name in ("q_norm", "k_norm")
)
AFTER_PROJECTIONS: tuple[NamedAxes, ...] = (
    ("self_att.self_attention.attention_out.weight", ("dim", "q")),
    ("ffn.layernorm_before_ffn.weight", ("dim",)),
)
FEED_FORWARD: tuple[NamedAxes, ...] = (
    ("ffn.ffn.w_in.w_0.weight", ("ff", "dim")),
    ("ffn.ffn.w_in.w_1.weight", ("ff", "dim")),
    ("ffn.ffn.w_out.weight", ("dim", "ff")),
)


class Parameter(NamedTuple):
    """One tensor; `role` is embedding, head, matrix (of a block) or vector (norms and biases)."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    role: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def sizes(config: ModelConfig) -> dict[str, int]:
    """The length of each axis."""
    return {
        "vocab": config.vocab_size,
        "dim": config.dim_model,
        "ff": config.dim_ff,
        "q": config.num_heads * config.dim_head,
        "kv": config.num_kv_heads * config.dim_head,
        "head": config.dim_head,
        **expert_sizes(config),
    }


def block_tensors(config: ModelConfig) -> list[NamedAxes]:
    """The tensors of a block, in the order of a forward pass."""
    rows = [NORM_BEFORE_ATTENTION]
    for name, axes in PROJECTIONS:
        rows.append((f"{name}.weight", axes))
        if config.qkv_bias:
            rows.append((f"{name}.bias", axes[:1]))
    rows += [*(HEAD_NORMS if config.qk_norm else ()), *AFTER_PROJECTIONS]
    return [*rows, *(expert_tensors(config) if config.num_experts else FEED_FORWARD)]


def parameters(config: ModelConfig) -> list[Parameter]:
    """Every tensor of the model, in the order of a forward pass; a tied head is not one."""
    of_axis, block = sizes(config), block_tensors(config)

    def parameter(name: str, axes: tuple[str, ...], role: str) -> Parameter:
        return Parameter(name, axes, tuple(of_axis[axis] for axis in axes), role)

    table = [parameter(EMBEDDING, ("vocab", "dim"), "embedding")]
    for i in range(config.num_layers):
        for name, axes in block:
            table.append(parameter(f"{LAYERS}{i}.{name}", axes, "matrix" if len(axes) == 2 else "vector"))
    table.append(parameter("encoder.output_layernorm.weight", ("dim",), "vector"))
    return table if config.tie_lm_head else [*table, parameter(HEAD, ("vocab", "dim"), "head")]


def count(table: Iterable[Parameter], without: tuple[str, ...] = ()) -> int:
    """The number of values in the tensors of a table, but for those of the roles `without`."""
    return sum(parameter.numel for parameter in table if parameter.role not in without)


def num_parameters(config: ModelConfig) -> int:
    """The number of values that a model of this config holds, a tied head counted once."""
    return count(parameters(config))
