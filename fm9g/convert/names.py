"""The names and shapes of every tensor of a model, in Hugging Face's words and in ours.

    match(config, checkpoint, "huggingface" | "ours", where)

walks the table below, so that a checkpoint is accepted only if it holds each tensor of the model in its
expected shape and nothing else. Tensors are the same in both worlds: only their names differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.tensors.lazy import DTYPES, LazyTensor, same_bits, unsupported

MAX_LISTED = 20

# (Hugging Face name, our name, axes); an axis is a key of SIZES. A linear weight is (out, in) in both.
Row = tuple[str, str, tuple[str, ...]]
EMBEDDING: Row = ("model.embed_tokens.weight", "input_embedding.weight", ("vocab", "dim"))
LAYER_PREFIXES = ("model.layers.", "encoder.layers.")
LAYER: tuple[Row, ...] = (
    ("input_layernorm.weight", "self_att.layernorm_before_attention.weight", ("dim",)),
    ("self_attn.q_proj.weight", "self_att.self_attention.project_q.weight", ("q", "dim")),
    ("self_attn.k_proj.weight", "self_att.self_attention.project_k.weight", ("kv", "dim")),
    ("self_attn.v_proj.weight", "self_att.self_attention.project_v.weight", ("kv", "dim")),
    ("self_attn.o_proj.weight", "self_att.self_attention.attention_out.weight", ("dim", "q")),
    ("post_attention_layernorm.weight", "ffn.layernorm_before_ffn.weight", ("dim",)),
    ("mlp.gate_proj.weight", "ffn.ffn.w_in.w_0.weight", ("ff", "dim")),
    ("mlp.up_proj.weight", "ffn.ffn.w_in.w_1.weight", ("ff", "dim")),
    ("mlp.down_proj.weight", "ffn.ffn.w_out.weight", ("dim", "ff")),
)
NORM: Row = ("model.norm.weight", "encoder.output_layernorm.weight", ("dim",))
HEAD: Row = ("lm_head.weight", "lm_head.weight", ("vocab", "dim"))

# Old LLaMA and MiniCPM checkpoints hold what rotary embeddings compute from the config: nothing to convert.
IGNORED = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")

SIZES = {
    "vocab": "vocab_size",
    "dim": "hidden_size (dim_model)",
    "ff": "intermediate_size (dim_ff)",
    "q": "num_attention_heads * head_dim (num_heads * dim_head)",
    "kv": "num_key_value_heads * head_dim (num_kv_heads * dim_head)",
}


class Parameter(NamedTuple):
    """One tensor of a model: its two names, its axes (keys of SIZES) and its shape."""

    huggingface: str
    ours: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]


def parameters(config: ModelConfig) -> list[Parameter]:
    """Every tensor of the model, in the order of a forward pass; a tied head is not one."""
    sizes = {
        "vocab": config.vocab_size,
        "dim": config.dim_model,
        "ff": config.dim_ff,
        "q": config.num_heads * config.dim_head,
        "kv": config.num_kv_heads * config.dim_head,
    }
    table = [EMBEDDING]
    for i in range(config.num_layers):
        prefixes = [f"{prefix}{i}." for prefix in LAYER_PREFIXES]
        table += [(prefixes[0] + theirs, prefixes[1] + ours, axes) for theirs, ours, axes in LAYER]
    table += [NORM] if config.tie_lm_head else [NORM, HEAD]
    return [Parameter(theirs, ours, axes, tuple(sizes[axis] for axis in axes)) for theirs, ours, axes in table]


def match(
    config: ModelConfig, checkpoint: Mapping[str, LazyTensor], side: str, where: str
) -> list[tuple[Parameter, LazyTensor]]:
    """Pair each of the model's parameters with its tensor; `side` says in whose names `checkpoint` is.

    Raises one UserError that lists sizes that differ from the config, and missing, unexpected and misshapen
    tensors and those of another format (the first MAX_LISTED, and how many there are).
    """
    expected = {getattr(parameter, side): parameter for parameter in parameters(config)}
    found = {name: tensor for name, tensor in checkpoint.items() if not IGNORED.search(name)}
    problems = _size_problems(config, expected, found, side)
    if config.tie_lm_head:
        problems += _tied_head_problems(found, EMBEDDING[0] if side == "huggingface" else EMBEDDING[1])
        found.pop(HEAD[0], None)
    problems += [f"{name}: missing" for name in expected if name not in found]
    problems += [f"{name}: not a tensor of this model" for name in found if name not in expected]
    for name in filter(expected.__contains__, found):
        tensor, shape = found[name], expected[name].shape
        if tensor.shape != shape:
            problems.append(f"{name}: shape {list(tensor.shape)}, expected {list(shape)}")
        if tensor.dtype not in DTYPES:
            problems.append(f"{name}: dtype {tensor.dtype} ({unsupported(tensor.dtype)})")
    if problems:
        raise UserError(_report(problems, where))
    return [(parameter, found[name]) for name, parameter in expected.items()]


def _report(problems: list[str], where: str) -> str:
    lines = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        lines.append(f"... and {len(problems) - MAX_LISTED} more")
    return "\n  ".join([f"{where} does not match its model config ({len(problems)} problems):", *lines])


def _size_problems(
    config: ModelConfig, expected: dict[str, Parameter], found: Mapping[str, LazyTensor], side: str
) -> list[str]:
    """Config fields that the tensors contradict, each once, by the first tensor that shows it."""
    problems: dict[str, str] = {}
    for name, parameter in expected.items():
        shape = found[name].shape if name in found else parameter.shape
        if len(shape) != len(parameter.shape):
            continue
        for axis, wanted, actual in zip(parameter.axes, parameter.shape, shape, strict=True):
            if wanted != actual:
                problems.setdefault(axis, f"{SIZES[axis]} is {wanted} in the config, {actual} in {name}")
    layer = re.compile(re.escape(LAYER_PREFIXES[0 if side == "huggingface" else 1]) + r"(\d+)\.")
    indices = {int(matched.group(1)) for matched in map(layer.match, found) if matched}
    if indices and max(indices) + 1 != config.num_layers:
        problems["layers"] = (
            f"num_hidden_layers (num_layers) is {config.num_layers} in the config, {max(indices) + 1} in the checkpoint"
        )
    return list(problems.values())


def _tied_head_problems(found: Mapping[str, LazyTensor], embedding: str) -> list[str]:
    head = HEAD[0]
    if head not in found or embedding not in found or same_bits(found[head], found[embedding]):
        return []
    return [
        f"{head}: differs from {embedding}, although the config ties them"
        " (set tie_word_embeddings / tie_lm_head to false if the checkpoint is right)"
    ]
