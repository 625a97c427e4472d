"""What decoders are made of, as their papers write it: one document [T, …] in float32, nothing packed, nothing cached.

Written for tests, and knows nothing of what it tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SEED = 0


class RMSNorm(nn.Module):
    """Zhang and Sennrich, https://arxiv.org/abs/1910.07467."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()


def turns(length: int, dims: int, base: float = 10000.0, stretch: float = 1.0) -> Tensor:
    """[T, 1, dims / 2] complex numbers by which a position turns each pair of dimensions (RoFormer, eq. 15)."""
    speeds = torch.tensor([base ** (-2 * i / dims) for i in range(dims // 2)])
    angles = torch.arange(length)[:, None] / stretch * speeds
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def turn_neighbours(x: Tensor, by: Tensor) -> Tensor:
    """Of [T, heads, dim], the pairs (2i, 2i + 1) of as many dimensions as are turned."""
    dims = 2 * by.shape[-1]
    pairs = torch.view_as_complex(x[..., :dims].unflatten(-1, (-1, 2)).contiguous())
    return torch.cat([torch.view_as_real(pairs * by).flatten(-2), x[..., dims:]], -1)


def turn_halves(x: Tensor, by: Tensor) -> Tensor:
    """The pairs (i, i + dims / 2) instead, as LLaMA has them."""
    half = by.shape[-1]
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * by
    return torch.cat([turned.real, turned.imag, x[..., 2 * half :]], -1)


def slopes(heads: int) -> Tensor:
    """ALiBi's (https://arxiv.org/abs/2108.12409): from 2^(-8/n) on for a power of two n, and for the heads beyond it
    those of 2n heads that it leaves out."""
    power = 1
    while 2 * power <= heads:
        power *= 2
    exponents = [-8 * i / power for i in range(1, power + 1)]
    exponents += [-8 * (2 * i + 1) / (2 * power) for i in range(heads - power)]
    return torch.tensor([2**exponent for exponent in exponents])


def attended(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None = None) -> Tensor:
    """[T, heads * dim] of queries [T, heads, dim] and of keys and values [T, groups, dim]."""
    length, heads, dim = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(dim)
    behind = torch.arange(length)[:, None] - torch.arange(length)
    if slopes is not None:
        scores = scores - slopes[:, None, None] * behind
    weights = scores.masked_fill(behind < 0, -math.inf).softmax(-1)
    return torch.einsum("hij,jhd->ihd", weights, v).flatten(1)


class Reference(nn.Module):
    """A model whose parameters have the names of the Hub's files; `settings` is its config.json."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings

    @property
    def architecture(self) -> str:
        name: str = self.settings["architectures"][0]
        return name

    def logits(self, tokens: Tensor) -> Tensor:
        """[T] -> [T, rows]."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        (tokens,) = input_ids
        return SimpleNamespace(logits=self.logits(tokens)[None])

    def shuffle(self) -> None:
        """Random values for all parameters, norms about 1."""
        torch.manual_seed(SEED)
        for name, value in self.named_parameters():
            is_norm = value.dim() == 1 and name.endswith("weight")
            nn.init.normal_(value, float(is_norm), 0.2 if value.dim() > 1 else 0.1)

    def save(self, folder: Path, shards: int = 1) -> None:
        """As a folder of the Hub, in one file or several with an index."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.settings))
        tensors = {name: value.detach().contiguous() for name, value in self.state_dict().items()}
        if shards == 1:
            save_file(tensors, folder / "model.safetensors")
            return
        named = {}
        for number, names in enumerate(_dealt(list(tensors), shards), 1):
            file = f"model-{number:05d}-of-{shards:05d}.safetensors"
            save_file({name: tensors[name] for name in names}, folder / file)
            named |= dict.fromkeys(names, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))


def _dealt(names: list[str], shards: int) -> Iterator[list[str]]:
    for number in range(shards):
        yield names[number::shards]


def bare(into: int, out: int, bias: bool = False) -> nn.Linear:
    """A projection, without a bias unless it is said."""
    return nn.Linear(into, out, bias=bias)


def holding(**modules: nn.Module) -> Any:
    """Modules under a name that they share."""
    return nn.ModuleDict(modules)
