"""Adapters in a decoder: put in and all else frozen while it is built, and what they begin as."""

from __future__ import annotations

import functools
from typing import Any

import torch

from fm9g.lora.layers import MAGNITUDE, matching, saved_modules, whole_modules
from fm9g.lora.low_rank import Dora, LowRank
from fm9g.lora.merge import row_lengths
from fm9g.lora.opendelta import insert
from fm9g.lora.settings import LoraSettings
from fm9g.model.block import TransformerBlock
from fm9g.model.config import ModelConfig
from fm9g.runtime.log import log
from fm9g.runtime.shards import gathered_weights


class Adapters:
    """Prepares the parts of a decoder (see Decoder): blocks get adapters, all else is frozen but modules_to_save."""

    def __init__(self, settings: LoraSettings, config: ModelConfig) -> None:
        """UserError for layers that are none."""
        self._settings = settings
        self._layers = matching(config, settings.layers_in(config))
        if config.num_experts and settings.named_layers is None:
            log(f"lora_layer: in a model of experts {', '.join(settings.layers_in(config))} alone, unless it is set")
        whole_modules(config, settings.modules_to_save or [])
        self._whole = {name.rpartition(".")[0] for name in saved_modules(settings.modules_to_save or [])}
        kind = Dora if settings.use_dora else LowRank
        self.saves_whole = bool(self._whole)
        self._adapt = functools.partial(
            kind, rank=settings.lora_r, scale=settings.kind.scale, dropout=settings.lora_dropout
        )
        self._dora = settings.use_dora
        self.modules = len(self._layers) * config.num_layers

    def prepare(self, name: str, module: torch.nn.Module) -> None:
        """Change a part of a decoder that is being built."""
        for parameter in module.parameters():  # not by its name, which would gather it from all ranks
            parameter.requires_grad_(name in self._whole)
        if isinstance(module, TransformerBlock):
            insert(module, self._layers, self._adapt)

    def begin(self, model: Any) -> None:
        """Give new adapters what they take from the weights of the model; all ranks must call it."""
        if not self._dora:
            return
        suffix, lengths = f".{MAGNITUDE}", {}
        wanted = {name.removesuffix(suffix) for name, _ in model.named_parameters() if name.endswith(suffix)}
        for name, weight in gathered_weights(model, {f"{layer}.weight" for layer in wanted}):
            lengths[name.removesuffix(".weight") + suffix] = row_lengths(weight)
        model.load_state_dict(lengths, strict=False)

    def describe(self, base: str) -> dict[str, Any]:
        """What state.json says of adapters for weights of the fingerprint `base`."""
        settings = self._settings
        return {
            "base": base,
            "layers": self._layers,
            **settings.kind._asdict(),
            "dropout": settings.lora_dropout,
            "modules_to_save": sorted(self._whole),
        }
