"""Blocks of a rank that is alone: their parameters and gradients are where the shard has them, not copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fm9g.runtime import bmt

pytestmark = pytest.mark.usefixtures("single_rank")


class Layer(bmt.DistributedModule):  # type: ignore[misc]
    """A product with two weights, one of them frozen, that tells where they lie while it is computed."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.trained = bmt.DistributedParameter(torch.randn(4, 3, generator=generator))
        self.frozen = bmt.DistributedParameter(torch.randn(3, 4, generator=generator), requires_grad=False)
        self.addresses: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.addresses |= {self.trained.untyped_storage().data_ptr(), self.frozen.untyped_storage().data_ptr()}
        return x @ self.trained @ self.frozen


def shards_of(block: Any) -> dict[int, Tensor]:
    return {shard.untyped_storage().data_ptr(): shard for shard in block._storage_params.values()}


@pytest.mark.parametrize("use_checkpoint", [False, True])
@pytest.mark.parametrize("zero_level", [2, 3])
def test_nothing_is_copied_and_gradients_add_up(use_checkpoint: bool, zero_level: int) -> None:
    block = bmt.Block(Layer(), use_checkpoint=use_checkpoint, zero_level=zero_level)
    trained, frozen = Layer().trained.detach().clone().requires_grad_(), Layer().frozen.detach().clone()
    for step in range(3):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step), requires_grad=True)
        block(x).square().sum().backward()
        (x.detach() @ trained @ frozen).square().sum().backward()
    shards = shards_of(block)
    assert block._module.addresses == set(shards)
    ((address, gradient),) = [(address, shard.grad) for address, shard in shards.items() if shard.grad is not None]
    assert trained.grad is not None
    assert torch.equal(gradient[:12], trained.grad.flatten())
    assert block._module.trained.grad.untyped_storage().data_ptr() == gradient.untyped_storage().data_ptr() != address
