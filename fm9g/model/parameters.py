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
    attention, ffn = "self_att.self_attention.", "ffn.ffn."
    heads = [("q", "q"), ("k", "kv"), ("v", "kv")]
    gate = ["w_in.w_0", "w_in.w_1"] if config.ffn_gated else ["w_in.w_0"]
    dense = [
        *(row for name in gate for row in _linear(f"{ffn}{name}", "ff", "dim", config.ffn_bias)),
        *_linear(f"{ffn}w_out", "dim", "ff", config.ffn_bias),
    ]
    return [
        *_norm(config, "self_att.layernorm_before_attention"),
        *(row for name, axis in heads for row in _linear(f"{attention}project_{name}", axis, "dim", config.qkv_bias)),
        *(row for name in "qk" if config.qk_norm for row in _norm(config, f"{attention}{name}_norm", "head")),
        *_linear(f"{attention}attention_out", "dim", "q", config.out_bias),
        *(_norm(config, "self_att.layernorm_after_attention") if config.branch_norm else ()),
        *_norm(config, "ffn.layernorm_before_ffn"),
        *(expert_tensors(config) if config.num_experts else dense),
        *(_norm(config, "ffn.layernorm_after_ffn") if config.branch_norm else ()),
    ]


def _norm(config: ModelConfig, name: str, axis: str = "dim") -> list[NamedAxes]:
    return [(f"{name}.{kind}", (axis,)) for kind in ("weight", *(["bias"] if config.norm == "layer" else []))]


def _linear(name: str, out: str, into: str, bias: bool) -> list[NamedAxes]:
    return [(f"{name}.weight", (out, into)), *([(f"{name}.bias", (out,))] if bias else [])]


def parameters(config: ModelConfig) -> list[Parameter]:
    """Every tensor of the model, in the order of a forward pass; a tied head is not one."""
    of_axis, block = sizes(config), block_tensors(config)

    def parameter(name: str, axes: tuple[str, ...], role: str) -> Parameter:
        return Parameter(name, axes, tuple(of_axis[axis] for axis in axes), role)

    table = [parameter(EMBEDDING, ("vocab", "dim"), "embedding")]
    if config.embedding_norm:
        table += [parameter(name, axes, "vector") for name, axes in _norm(config, "embedding_norm")]
    for i in range(config.num_layers):
        for name, axes in block:
            table.append(parameter(f"{LAYERS}{i}.{name}", axes, "matrix" if len(axes) == 2 else "vector"))
    table += [parameter(name, axes, "vector") for name, axes in _norm(config, "encoder.output_layernorm")]
    return table if config.tie_lm_head else [*table, parameter(HEAD, ("vocab", "dim"), "head")]


def count(table: Iterable[Parameter], without: tuple[str, ...] = ()) -> int:
    """The number of values in the tensors of a table, but for those of the roles `without`."""
    return sum(parameter.numel for parameter in table if parameter.role not in without)


def num_parameters(config: ModelConfig) -> int:
    """The number of values that a model of this config holds, a tied head counted once."""
    return count(parameters(config))
