"""Adapters that a run has saved: read with what they are, and merged into the weights that they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fm9g.errors import UserError
from fm9g.files import read_json
from fm9g.lora.kind import Kind
from fm9g.lora.layers import LORA_A, LORA_B, MAGNITUDE, USUAL, check_named
from fm9g.lora.merge import Adapter, merged
from fm9g.lora.settings import LoraSettings
from fm9g.lora.told import told_of
from fm9g.settings import Merged, fields, parse_mapping
from fm9g.tensors.lazy import LazyTensor
from fm9g.tensors.readers import read_weights

_SECTIONS = ("pretrain", "finetune")


@dataclass(frozen=True)
class _LoraConfig(LoraSettings, Merged):
    """The settings of adapters alone."""


class SavedAdapters(NamedTuple):
    """Adapters in a file or folder: what they are, those of each layer (by its name without .weight), and weights that
    are saved whole."""

    path: Path
    kind: Kind
    dropout: float
    adapters: Mapping[str, Adapter]
    whole: Mapping[str, LazyTensor]

    def tensors(self) -> dict[str, LazyTensor]:
        """All by their names in our model, if the layers are by theirs in it."""
        parts = zip((LORA_A, LORA_B, MAGNITUDE), zip(*self.adapters.values(), strict=True), strict=True)
        named = {
            f"{layer}.{part}": tensor
            for part, found in parts
            for layer, tensor in zip(self.adapters, found, strict=True)
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None} | dict(self.whole)


def read_adapters(path: Path, config: Path | None) -> SavedAdapters:
    """The adapters in `path`. What they are is told by `config`, a train config with lora_r, lora_alpha and the like,
    by the state.json of the run that saved them, or both, which must agree."""
    tensors, told = read_weights(path), told_of(path)
    layers = {name.removesuffix(f".{LORA_A}") for name in tensors if name.endswith(f".{LORA_A}")}
    if not layers:
        raise UserError(f"{path}: holds no adapters (no …{LORA_A})")
    settings = None if config is None else _settings(config)
    if settings is not None:
        kind, dropout = settings.kind, settings.lora_dropout
    elif told is not None:
        kind, dropout = told.kind, told.dropout
    else:
        raise UserError(
            f"{path}: what these adapters are is not known: give the train config of their run (--lora-config-path)"
        )
    if settings is not None:
        # those of experts, a run's state.json tells; a feed-forward without a gate has no w_1
        usual = [name for name in USUAL if name != "w_1" or any(layer.endswith(".w_1") for layer in layers)]
        named = settings.named_layers or (told and told.layers) or usual
        check_named(layers, named, f"{path} ({config})")
    if told is not None and told.kind != kind:
        raise UserError(
            f"{config}: says {_shown(kind)} of adapters that are {_shown(told.kind)} ({told.where}): {path}"
        )
    parts = {LORA_A, LORA_B} | ({MAGNITUDE} if kind.dora else set())
    wanted = {f"{layer}.{part}" for layer in layers for part in parts}
    if missing := sorted(wanted - tensors.keys()):
        raise UserError(f"{path}: {missing[0]} is missing")
    adapters = {layer: _adapter(tensors, layer, kind, path) for layer in sorted(layers)}
    whole = {name: tensor for name, tensor in tensors.items() if name not in wanted}
    for name in whole:
        if ".lora." in name:
            raise UserError(f"{path}: {name} is no part of adapters that are {_shown(kind)}")
    return SavedAdapters(path, kind, dropout, adapters, whole)


def _shown(kind: Kind) -> str:
    return json.dumps(kind._asdict())


def _adapter(tensors: Mapping[str, LazyTensor], layer: str, kind: Kind, path: Path) -> Adapter:
    made = Adapter(tensors[f"{layer}.{LORA_A}"], tensors[f"{layer}.{LORA_B}"], tensors.get(f"{layer}.{MAGNITUDE}"))
    if made.a.shape[0] != kind.r:
        raise UserError(f"{path}: {layer} has an adapter of rank {made.a.shape[0]}, its config says {kind.r}")
    return made


def _settings(path: Path) -> LoraSettings:
    """The settings of adapters in a train config, or in a lora_config of others."""
    content = read_json(path)
    if isinstance(content, dict) and len(content) == 1 and next(iter(content)) in _SECTIONS:
        content = next(iter(content.values()))
    if not isinstance(content, dict) or not content.keys() & fields(LoraSettings).keys():
        raise UserError(f"{path}: expected an object of settings, with some of adapters among them")
    known: dict[str, Any] = {key: value for key, value in content.items() if key in fields(LoraSettings)}
    settings = _LoraConfig(**parse_mapping(_LoraConfig, known, str(path)))
    settings.check()
    return settings


def with_adapters(
    weights: Mapping[str, LazyTensor], saved: SavedAdapters, where: Path, dtype: str | None
) -> dict[str, LazyTensor]:
    """Weights in our names with adapters merged into them, in `dtype` (None: their own); UserError for adapters that
    match nothing."""
    made = dict(weights)
    for layer, adapter in saved.adapters.items():
        name = f"{layer}.weight"
        if name not in made:
            raise UserError(f"{saved.path}: has an adapter for {layer}, which {where} does not hold")
        made[name] = merged(name, made[name], adapter, saved.kind.scale, dtype)
    for name, tensor in saved.whole.items():
        if name not in made or made[name].shape != tensor.shape:
            has = f"has {list(made[name].shape)}" if name in made else "does not hold it"
            raise UserError(f"{saved.path}: {name} is {list(tensor.shape)}, {where} {has}")
        made[name] = tensor
    return made
