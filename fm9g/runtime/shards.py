"""A model's parameters as BMTrain shares them out: what a rank holds of each, and the whole of them.

For all outside of this package: they need no field of BMTrain's blocks and parameters that is not its interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm9g.runtime import bmt

ZeroContext = bmt.zero_context.ZeroContext


class Shard(NamedTuple):
    """The flat range [start, end) of a parameter that this rank holds, as `parameter`."""

    name: str
    parameter: Any
    start: int
    end: int


def shards(model: Any) -> Iterator[Shard]:
    """What this rank holds of the model's parameters; of some it may hold nothing, which are left out."""
    for name, param in model.named_parameters():
        if param.numel() and param._start_partition is not None:
            yield Shard(name, param, param._start_partition, param._start_partition + param.numel())


def whole_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the whole parameters."""
    return {name: tuple(param._original_shape) for name, param in model.named_parameters()}


def gathered_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of every weight in order, one block gathered at a time; all ranks must go through it."""
    for prefix, module in model.named_modules():
        if isinstance(module, bmt.Block):
            with torch.no_grad(), ZeroContext(module):
                for info in module._param_info:
                    yield f"{prefix}.{info['name']}", info["parameter"].detach()
        else:
            for name, param in module._parameters.items():
                if isinstance(param, bmt.DistributedParameter) and not param._in_block:
                    with torch.no_grad():
                        weight = param.gather()
                    yield f"{prefix}.{name}" if prefix else name, weight
