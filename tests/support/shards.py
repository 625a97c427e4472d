"""Weights of a .pt in shards, as safetensors' own writer makes them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def in_shards(weights: Path, folder: Path, count: int = 3) -> Path:
    """Write the tensors of a .pt into `folder`, dealt in turn to so many shards of its name; returns their index."""
    tensors, stem = torch.load(weights, weights_only=True), weights.stem
    weight_map = {}
    for number in range(count):
        name = f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors"
        shard = {key: tensors[key] for key in list(tensors)[number::count]}
        save_file(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index
