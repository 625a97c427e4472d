"""Whether a checkpoint is a model's: it holds each of its tensors, in its shape, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fm9g.convert.layouts import Group, Layouts, Shaped, groups, their_name
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import EMBEDDING, HEAD, LAYERS
from fm9g.tensors.lazy import DTYPES, LazyTensor, same_bits, unsupported

MAX_LISTED = 20

# Old LLaMA, MiniCPM and ChatGLM checkpoints hold what rotary embeddings compute from the config: nothing to convert.
IGNORED = re.compile(r"\.rotary_(pos_)?emb\.(inv_freq|cos_cached|sin_cached)$")

SIZES = {
    "vocab": "vocab_size",
    "dim": "hidden_size (dim_model)",
    "ff": "intermediate_size (dim_ff)",
    "q": "num_attention_heads * head_dim (num_heads * dim_head)",
    "head": "head_dim (dim_head)",
    "kv": "num_key_value_heads * head_dim (num_kv_heads * dim_head)",
    "experts": "num_experts or num_local_experts (num_experts)",
    "expert_ff": "moe_intermediate_size, of Mixtral intermediate_size (dim_expert)",
    "experts_ff": "num_experts * moe_intermediate_size (num_experts * dim_expert)",
    "shared_ff": "shared_expert_intermediate_size (dim_shared_expert)",
}


def match(
    config: ModelConfig, layouts: Layouts, checkpoint: Mapping[str, LazyTensor], side: str, where: str
) -> tuple[list[Group], dict[str, LazyTensor]]:
    """The model's tensors as they are laid out, and those of the checkpoint; `side`, "huggingface" or "ours", says in
    whose names it is.

    Raises one UserError that lists sizes that differ from the config, and missing, unexpected and misshapen
    tensors and those of another format (the first MAX_LISTED, and how many there are).
    """
    tied = groups(config, layouts)
    expected = {tensor.name: tensor for group in tied for tensor in group.side(side)}
    found = {name: tensor for name, tensor in checkpoint.items() if not IGNORED.search(name)}
    if side == "huggingface" and layouts.prefix:
        found = _with_prefix(found, expected, layouts.prefix)
    layers = layouts.layers if side == "huggingface" else LAYERS
    problems = _size_problems(config, expected, found, layers)
    if config.tie_lm_head:
        ends = [their_name(name, layouts) if side == "huggingface" else name for name in (HEAD, EMBEDDING)]
        problems += _tied_head_problems(found, *ends)
        found.pop(ends[0], None)
    problems += [f"{name}: missing" for name in expected if name not in found]
    problems += [f"{name}: not a tensor of this model" for name in found if name not in expected]
    for name in filter(expected.__contains__, found):
        tensor, shape = found[name], expected[name].shape
        if tensor.shape != shape:
            problems.append(f"{name}: shape {list(tensor.shape)}, expected {list(shape)}")
        if tensor.dtype not in DTYPES:
            problems.append(f"{name}: dtype {tensor.dtype} ({unsupported(tensor.dtype)})")
    if problems and any(".lora." in name for name in found):
        raise UserError(f"{where}: holds adapters: give it as --lora-ckpt-path, and what they are for as the model")
    if problems:
        raise UserError(_report(problems, where))
    return tied, found


def _with_prefix(found: Mapping[str, LazyTensor], expected: Mapping[str, Shaped], prefix: str) -> dict[str, LazyTensor]:
    """With full names for those that are expected with the prefix alone, unless they are there in full, too."""
    return {
        prefix + name if prefix + name in expected and prefix + name not in found else name: tensor
        for name, tensor in found.items()
    }


def _report(problems: list[str], where: str) -> str:
    lines = problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        lines.append(f"... and {len(problems) - MAX_LISTED} more")
    return "\n  ".join([f"{where} does not match its model config ({len(problems)} problems):", *lines])


def _size_problems(
    config: ModelConfig, expected: dict[str, Shaped], found: Mapping[str, LazyTensor], layers: str
) -> list[str]:
    """Config fields that the tensors contradict, each once, by the first tensor that shows it."""
    problems: dict[str, str] = {}
    for name, tensor in expected.items():
        shape = found[name].shape if name in found else tensor.shape
        if len(shape) != len(tensor.shape):
            continue
        for axis, wanted, actual in zip(tensor.axes, tensor.shape, shape, strict=True):
            if wanted != actual and axis in SIZES:
                problems.setdefault(axis, f"{SIZES[axis]} is {wanted} in the config, {actual} in {name}")
    layer = re.compile(re.escape(layers) + r"(\d+)\.")
    indices = {int(matched.group(1)) for matched in map(layer.match, found) if matched}
    if indices and max(indices) + 1 != config.num_layers:
        problems["layers"] = (
            f"num_hidden_layers (num_layers) is {config.num_layers} in the config, {max(indices) + 1} in the checkpoint"
        )
    return list(problems.values())


def _tied_head_problems(found: Mapping[str, LazyTensor], head: str, embedding: str) -> list[str]:
    if head not in found or embedding not in found or same_bits(found[head], found[embedding]):
        return []
    return [
        f"{head}: differs from {embedding}, although the config ties them"
        " (set tie_word_embeddings / tie_lm_head to false if the checkpoint is right)"
    ]
