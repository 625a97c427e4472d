"""Which layers of a block get adapters, and the tensors of these.

A name means every layer whose dotted name ends with it, at a dot, as OpenDelta has it; one that begins with [r] is a
regular expression that reaches to the end. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fm9g.errors import UserError, closest, shown
from fm9g.model.config import ModelConfig
from fm9g.model.expert_parameters import EXPERTS, ROUTER
from fm9g.model.parameters import EMBEDDING, HEAD, LAYERS, Parameter, block_tensors, parameters, sizes

ALL, _REGEX = "all", "[r]"
_ATTENTION = ("project_q", "project_k", "project_v")
USUAL = (*_ATTENTION, "w_0", "w_1", "w_out")
LORA_A, LORA_B, MAGNITUDE = "lora.lora_A", "lora.lora_B", "lora.magnitude"
# Hugging Face's names of projections, and of projections that lie in one tensor there
_THEIRS = {
    "q_proj": ("project_q",),
    "k_proj": ("project_k",),
    "v_proj": ("project_v",),
    "o_proj": ("attention_out",),
    "gate_proj": ("w_0",),
    "up_proj": ("w_1",),
    "down_proj": ("w_out",),
    "query_key_value": ("project_q", "project_k", "project_v"),
    "qkv_proj": ("project_q", "project_k", "project_v"),
    "W_pack": ("project_q", "project_k", "project_v"),
    "c_attn": ("project_q", "project_k", "project_v"),
    "wqkv": ("project_q", "project_k", "project_v"),
    "dense": ("attention_out",),
    "wo": ("attention_out",),
    "gate_up_proj": ("w_0", "w_1"),
    "dense_h_to_4h": (r"[r]w_in\.w_[01]",),  # with a gate or without
    "dense_4h_to_h": ("w_out",),
    "c_proj": ("attention_out", "w_out"),
    "all-linear": (ALL,),
    ALL: (ALL,),
}
_ROUTED = [name.removesuffix(".weight") for name, _ in (ROUTER, *EXPERTS)]
_SAVED = {"embed_tokens": EMBEDDING, "input_embedding": EMBEDDING, "lm_head": HEAD}


def layers_of(theirs: Sequence[str]) -> tuple[str, ...]:
    """Our names of layers that Hugging Face's name; a UserError for one that is none."""
    for name in theirs:
        if name not in _THEIRS:
            raise UserError(
                f"lora_target_modules: unknown {name!r}{closest(name, _THEIRS)}; known: {', '.join(_THEIRS)}"
            )
    return tuple(dict.fromkeys(ours for name in theirs for ours in _THEIRS[name]))


def saved_modules(names: Iterable[str]) -> tuple[str, ...]:
    """The weights of modules_to_save, by Hugging Face's names or ours; a UserError for one that is none."""
    names = list(names)
    for name in names:
        if name not in _SAVED:
            raise UserError(
                f"modules_to_save: unknown {shown(name)}{closest(name, _SAVED)}; known: {', '.join(_SAVED)}"
            )
    return tuple(dict.fromkeys(_SAVED[name] for name in names))


def usual_layers(config: ModelConfig) -> tuple[str, ...]:
    """What gets adapters where nobody says; of a model of experts attention alone."""
    if config.num_experts:
        return _ATTENTION
    return USUAL if config.ffn_gated else tuple(name for name in USUAL if name != "w_1")


def linear_layers(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """{name in a block: (out, in), as axes} of the linear layers of a block: of all that can have adapters."""
    tensors = {name.removesuffix(".weight"): axes for name, axes in block_tensors(config) if len(axes) == 2}
    return {name: axes for name, axes in tensors.items() if name not in _ROUTED}


def matching(config: ModelConfig, layers: Sequence[str]) -> list[str]:
    """The linear layers of a block, by their names in it, that `layers` name; a UserError for one that names none."""
    there = list(linear_layers(config))
    for layer in layers:
        routed = [name for name in _ROUTED if config.num_experts and layer != ALL and _ends_with(name, layer)]
        if routed:
            raise UserError(
                f"lora_layer: {layer!r} is {routed[0]} here, and a router and its experts get no adapters; there are "
                f"{', '.join(there)}"
            )
        if layer != ALL and not any(_ends_with(name, layer) for name in there):
            raise UserError(
                f"lora_layer: {layer!r} is no linear layer of a block{closest(layer, _ends(there))}; there are "
                f"{', '.join(there)}, and all for all of them"
            )
    return [name for name in there if ALL in layers or any(_ends_with(name, layer) for layer in layers)]


def check_named(layers: Iterable[str], named: Sequence[str], where: str) -> None:
    """Refuse adapters of `layers`, which may be many blocks', whose train config has `named` others for lora_layer."""
    layers = sorted(layers)
    if ALL in named:
        return
    lacking = [name for name in named if not any(_ends_with(layer, name) for layer in layers)]
    more = [layer for layer in layers if not any(_ends_with(layer, name) for name in named)]
    if lacking or more:
        said = f"has no adapter for {lacking[0]}" if lacking else f"has an adapter for {more[0]}"
        raise UserError(f"{where}: {said}, and lora_layer says {', '.join(named)}: another run's config")


def _ends(names: Iterable[str]) -> list[str]:
    return [name.rpartition(".")[2] for name in names]


def _ends_with(name: str, layer: str) -> bool:
    if layer.startswith(_REGEX):
        try:
            pattern = re.compile(f"(?:^|.*\\.)(?:{layer[len(_REGEX) :]})")
        except re.error as error:
            raise UserError(f"lora_layer: {layer!r} is no regular expression: {error}") from None
        return pattern.fullmatch(name) is not None
    return f".{name}".endswith(f".{layer}")


def adapter_parameters(config: ModelConfig, layers: Sequence[str], rank: int, dora: bool) -> list[Parameter]:
    """The tensors of all adapters, in the order of a forward pass; their role is adapter."""
    of_axis, axes_of = sizes(config), linear_layers(config)
    of_axis = {**of_axis, "rank": rank}
    table = []
    for i in range(config.num_layers):
        for layer in matching(config, layers):
            out, into = axes_of[layer]
            tensors = [(LORA_A, ("rank", into)), (LORA_B, (out, "rank"))] + ([(MAGNITUDE, (out,))] if dora else [])
            for name, axes in tensors:
                shape = tuple(of_axis[axis] for axis in axes)
                table.append(Parameter(f"{LAYERS}{i}.{layer}.{name}", axes, shape, "adapter"))
    return table


def whole_modules(config: ModelConfig, names: Sequence[str]) -> list[Parameter]:
    """The tensors of modules_to_save; a UserError for a head that is the embedding."""
    saved, table = saved_modules(names), {parameter.name: parameter for parameter in parameters(config)}
    if HEAD in saved and HEAD not in table:
        raise UserError("modules_to_save: lm_head is tied to the embedding: name input_embedding")
    return [table[name] for name in saved]
