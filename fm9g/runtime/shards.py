"""A model's parameters as BMTrain shares them out: what a rank holds of each, and the whole of them.

For all outside of this package: they need no field of BMTrain's blocks and parameters that is not its interface.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm9g.runtime import bmt


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


def gathered_weights(model: Any, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of every weight in order, or of those in `names`, one block gathered at a time; all ranks
    must go through it. Of a block only the storages are gathered that hold what is asked for: adapters lie in one of
    their own."""
    for prefix, module in model.named_modules():
        if isinstance(module, bmt.Block):
            wanted = [(f"{prefix}.{info['name']}", info) for info in module._param_info]
            wanted = [(name, info) for name, info in wanted if names is None or name in names]
            storages = {kw: _gathered(module, kw) for kw in dict.fromkeys(info["kw_name"] for _, info in wanted)}
            for name, info in wanted:
                yield name, storages[info["kw_name"]].narrow(0, info["offset"], info["size"]).view(info["shape"])
        else:
            for name, param in module._parameters.items():
                whole_name = f"{prefix}.{name}" if prefix else name
                wanted_too = names is None or whole_name in names
                if isinstance(param, bmt.DistributedParameter) and not param._in_block and wanted_too:
                    with torch.no_grad():
                        weight = param.gather()
                    yield whole_name, weight


def _gathered(block: Any, kw: str) -> Tensor:
    """All ranks' parts of one of a block's storages, flat."""
    part, info = block._storage_params[kw].detach(), block._storage_info[kw]
    whole = part.new_empty(info["partition_size"] * info["world_size"])
    bmt.nccl.allGather(part.storage(), whole.storage(), info["zero_comm"])
    return whole
