"""A model's parameters as BMTrain shares them out: what a rank holds of each, and the whole of them.

For all outside of this package: they need no field of BMTrain's blocks and parameters that is not its interface.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm9g.runtime import bmt, tensor_parallel


class Columns(NamedTuple):
    """[first, last) of a matrix's `width` columns."""

    first: int
    last: int
    width: int


class Shard(NamedTuple):
    """The flat range [start, end) that this rank holds, as `parameter`, of a whole parameter, or of its `columns`."""

    name: str
    parameter: Any
    start: int
    end: int
    columns: Columns | None = None


def shards(model: Any) -> Iterator[Shard]:
    """What this rank holds of the model's parameters; of some it may hold nothing, which are left out."""
    for name, param in model.named_parameters():
        if not param.numel() or param._start_partition is None:
            continue
        start, columns, part = param._start_partition, None, param._original_shape
        if param._tp_split_dim == 0:
            start += tensor_parallel.rank() * part.numel()
        elif param._tp_split_dim == 1:
            first = tensor_parallel.rank() * part[1]
            columns = Columns(first, first + part[1], param._tp_original_shape[1])
        yield Shard(name, param, start, start + param.numel(), columns)


def columns_cut(model: Any) -> Iterator[tuple[str, Any]]:
    """The parameters of which a tensor-parallel group's ranks have columns each, also where this one holds nothing."""
    return ((name, param) for name, param in model.named_parameters() if param._tp_split_dim == 1)


def whole_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the whole parameters."""
    return {name: tuple(param._tp_original_shape) for name, param in model.named_parameters()}


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
                part = storages[info["kw_name"]].narrow(0, info["offset"], info["size"]).view(info["shape"])
                yield name, _whole(part, info["parameter"])
        else:
            for name, param in module._parameters.items():
                whole_name = f"{prefix}.{name}" if prefix else name
                wanted_too = names is None or whole_name in names
                if isinstance(param, bmt.DistributedParameter) and not param._in_block and wanted_too:
                    with torch.no_grad():
                        weight = param.gather()
                    yield whole_name, _whole(weight, param)


def _whole(part: Tensor, param: Any) -> Tensor:
    """The whole parameter, of which a tensor-parallel group's ranks have a part each."""
    if param._tp_split_dim < 0:
        return part
    return torch.cat(tensor_parallel.all_gather(part).split(part.shape[0]), param._tp_split_dim)


def _gathered(block: Any, kw: str) -> Tensor:
    """All ranks' parts of one of a block's storages, flat."""
    part, info = block._storage_params[kw].detach(), block._storage_info[kw]
    whole = part.new_empty(info["partition_size"] * info["world_size"])
    bmt.nccl.allGather(part.storage(), whole.storage(), info["zero_comm"])
    return whole
