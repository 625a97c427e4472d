"""A model whose weights stay gathered, so that token after token needs no collective and no hook of BMTrain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.runtime import bmt, tensor_parallel
from fm9g.runtime.shards import gathered_weights, whole_shapes

_SPARE = 0.8  # of the free memory, what weights may take: caches and activations want some


def fits(model: Any) -> bool:
    """Whether every rank has room for the whole model beside its part of it; all ranks must ask."""
    if runtime.world_size() == 1:
        return True
    sizes = {name: torch.Size(shape).numel() for name, shape in whole_shapes(model).items()}
    needed = sum(sizes[name] * param.element_size() for name, param in model.named_parameters())
    return bool(runtime.all_reduce(int(needed < _SPARE * runtime.free_bytes()), "min"))


@contextlib.contextmanager
def held(model: Any) -> Iterator[None]:
    """Keep the whole of every parameter on every rank until the end. Without gradients; all ranks must come.

    A single rank has all of them already; of several, each needs room for the whole model beside its part.
    """
    blocks = [module for module in model.modules() if isinstance(module, bmt.Block)]
    inside = [inner for block in blocks for inner in block._module.modules()]
    wholes = dict(zip(map(id, model.parameters()), _wholes(model), strict=True))
    with contextlib.ExitStack() as stack, torch.no_grad():
        for module in {*model.modules(), *inside}:
            weights = {name: wholes[id(param)] for name, param in module._parameters.items() if param is not None}
            _put(stack, module, weights | dict(module._modules))
        for block in blocks:
            _put(stack, block, {"forward": block._module.forward})
        stack.enter_context(tensor_parallel.apart())
        yield


def _put(stack: contextlib.ExitStack, module: Any, attributes: Mapping[str, Any]) -> None:
    """Give a module attributes of its own, before which BMTrain's lookup, which gathers, does not come."""
    own = vars(module)
    for name, value in attributes.items():
        assert name not in own
        own[name] = value
        stack.callback(own.pop, name)


def _wholes(model: Any) -> Iterator[Tensor]:
    """The whole of each parameter, in order."""
    if runtime.world_size() == 1:
        return (param.data.view(param._original_shape) for param in model.parameters())
    wholes = dict(gathered_weights(model))
    return (wholes[name] for name, _ in model.named_parameters())
