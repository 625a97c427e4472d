"""BMTrain's `ZeroContext` without what it costs the host: the same buffers, streams and collectives.

Its own makes an empty tensor for every parameter and points it at a storage, several times a block and step, while the
GPU waits. Here they are views of one buffer, and of the shard itself where one rank has all of it, without a copy or a
collective: there, on a CPU, a `state_dict` holds the weights themselves, as torch's does. This module is written with
CUDA's names and rewritten for the cpu backend, as BMTrain's own modules are.
"""

from __future__ import annotations

from typing import Any

import torch
from bmtrain import nccl
from bmtrain.global_var import config
from bmtrain.synchronize import wait_loader
from torch import Tensor

REPEATED = 2  # the flag of a forward or backward whose gathered parameters ZeRO-2 has kept


def enter(self: Any, flag: int = 0, requires_grad: bool = False) -> None:
    """Gather the block's parameters; with `requires_grad`, make gradients for the backward: zeroed ones, or those that
    a rank which is alone adds to."""
    block = self.block
    if block._ready:
        return
    block._ready = True
    self._need_release = True
    wait_loader()
    for kw in block._storage_info.keys() - _shared(block).keys():
        shard = block._storage_params[kw]
        self._param_tensor[kw] = shard
        if requires_grad and shard.requires_grad:
            shard.grad = torch.zeros_like(shard) if shard.grad is None else shard.grad
            self._grad_tensor[kw] = shard.grad
    if _shared(block):
        _gather(self, flag, requires_grad)
    for item in block._param_info:
        parameter, kw = item["parameter"], item["kw_name"]
        parameter.data = _part(self._param_tensor[kw], item["offset"], item["shape"])
        if kw in self._grad_tensor and parameter.requires_grad:
            parameter.grad = _part(self._grad_tensor[kw], item["offset"], item["shape"])


def _shared(block: Any) -> dict[str, Any]:
    """What is known of the block's storages that several ranks have a part of each."""
    return {kw: info for kw, info in block._storage_info.items() if info["world_size"] > 1}


def _gather(self: Any, flag: int, requires_grad: bool) -> None:
    """Make the buffers of what is shared, and fill those of the parameters."""
    block, shared = self.block, _shared(self.block)
    stream = torch.cuda.current_stream()
    with torch.cuda.stream(config["load_stream"]):
        for kw, info in shared.items():
            shard = block._storage_params[kw]
            size = info["partition_size"] * info["world_size"]
            self._param_tensor[kw] = self.ctx_dict[kw] if flag == REPEATED else shard.new_empty(size)
            if requires_grad and shard.requires_grad:
                self._grad_tensor[kw] = shard.new_zeros(size)
        if flag != REPEATED:
            nccl.groupStart()
            for kw, info in shared.items():
                shard = block._storage_params[kw]
                nccl.allGather(shard.storage(), self._param_tensor[kw].storage(), info["zero_comm"])
            nccl.groupEnd()
    stream.wait_stream(config["load_stream"])
    for buffers in (self._param_tensor, self._grad_tensor):
        for kw in shared.keys() & buffers.keys():
            buffers[kw].record_stream(stream)


def exit(self: Any, flag: int = 0, backward: bool = False) -> None:
    """Give the parameters back to the block's shard; after a backward, add up the gradients over the ranks."""
    if not self._need_release:
        return
    self._need_release = False
    block = self.block
    block._ready = False
    if backward and _shared(block):
        _reduce_gradients(block, self._grad_tensor)
    _give_back(block)
    if flag == 1:
        self.ctx_dict.update(self._param_tensor)
    self._param_tensor, self._grad_tensor = {}, {}


def give_back_all(model: Any) -> None:
    """After an exception, which has come before `exit`: the parameters of a rank that is alone are its shards again."""
    for module in model.modules():
        if getattr(module, "_ready", False) is True:
            module._ready = False
            _give_back(module)


def _give_back(block: Any) -> None:
    """Make the block's parameters, and their gradients, views of its shards."""
    for item in block._param_info:
        parameter, shard = item["parameter"], block._storage_params[item["kw_name"]]
        if "begin" not in item:  # all of it is other ranks'
            parameter.data = shard.new_empty(0)
            parameter.grad = None
            continue
        parameter.data = _part(shard, item["begin"], item["end"])
        if parameter.requires_grad and shard.grad is not None:
            parameter.grad = _part(shard.grad, item["begin"], item["end"])


def _reduce_gradients(block: Any, gradients: dict[str, Tensor]) -> None:
    """Scatter the gradients of what is shared, on top of what this rank has from the micro-steps before."""
    shared = _shared(block)
    trained = {kw: shard for kw, shard in block._storage_params.items() if kw in shared and shard.requires_grad}
    for kw, shard in trained.items():
        info = shared[kw]
        if shard.grad is None:
            shard.grad = torch.zeros_like(shard)
        else:
            gradients[kw][info["begin"] : info["end"]] += shard.grad
    load_stream = config["load_stream"]
    load_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(load_stream):
        nccl.groupStart()
        for kw, shard in trained.items():
            comm = shared[kw]["zero_comm"]
            nccl.reduceScatter(gradients[kw].storage(), shard.grad.storage(), "sum", comm)
        nccl.groupEnd()
    for kw in trained:
        gradients[kw].record_stream(load_stream)  # it may not be freed before it is sent


def _part(buffer: Tensor, start: int, shape: tuple[int, ...]) -> Tensor:
    """A view of that shape into a flat buffer, outside of any graph."""
    part = buffer.detach().narrow(0, start, torch.Size(shape).numel())
    return part if len(shape) == 1 else part.view(shape)
