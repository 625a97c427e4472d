"""What a training loop on BMTrain calls besides its layers, on 2 ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import bmtrain as bmt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.checks import run_checks

FOLDER = Path(sys.argv[1])

bmt.init_distributed(seed=7)
RANK, SIZE = bmt.rank(), bmt.world_size()


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Layer(bmt.DistributedModule):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = bmt.DistributedParameter(seeded(1, 6, 6).to(dtype).cuda(), init_method=nn.init.zeros_)
        self.bias = bmt.DistributedParameter(seeded(2, 6).to(dtype).cuda(), init_method=nn.init.zeros_)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight, self.bias)
        bmt.inspect.record_tensor(x, "hidden")
        return x


class Model(bmt.DistributedModule):
    """A block, and a layer outside of it."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.blocks = bmt.TransformerBlockList([bmt.Block(Layer(dtype), use_checkpoint=False)])
        self.head = Layer(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def check_gradients_of_collectives() -> None:
    """y = collective(x); the loss of a rank is sum(y * factor) with a factor of its own."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).cuda() + 10 * RANK
    factor = torch.tensor([[1.0, -1.0], [2.0, 0.5]]).cuda() * (RANK + 1)

    def gradient(op: str) -> Tensor:
        mine = x.clone().requires_grad_()
        (bmt.distributed.all_reduce(mine, op) * factor).sum().backward()
        return mine.grad

    assert torch.equal(gradient("sum"), factor)
    assert torch.equal(gradient("avg"), factor / SIZE)
    assert torch.equal(gradient("max"), factor * (RANK == SIZE - 1))
    assert torch.equal(gradient("min"), factor * (RANK == 0))
    others = torch.stack([torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * rank for rank in range(SIZE)]).prod(0) / x
    torch.testing.assert_close(gradient("prod"), factor * others)

    mine = x.clone().requires_grad_()
    gathered = bmt.distributed.all_gather(mine)
    assert gathered.shape == (SIZE, 2, 2)
    (gathered * torch.arange(1.0, SIZE + 1).view(SIZE, 1, 1).cuda()).sum().backward()
    assert torch.equal(mine.grad, torch.full((2, 2), RANK + 1.0))

    mine = x.clone().requires_grad_()
    row = bmt.distributed.reduce_scatter(mine, "sum")
    assert torch.equal(
        row,
        torch.stack([torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * rank for rank in range(SIZE)]).sum(0)[
            RANK : RANK + 1
        ],
    )
    (row * (RANK + 1)).sum().backward()
    assert torch.equal(mine.grad, torch.tensor([[1.0, 1.0], [2.0, 2.0]]))

    mine = x.clone().requires_grad_()
    bmt.distributed.broadcast(mine, 0).sum().backward()
    assert torch.equal(mine.grad, torch.full((2, 2), float(SIZE)))


def check_save_and_load() -> None:
    """The file holds whole tensors that plain torch reads, and loading it puts them back."""
    path = str(FOLDER / "model.pt")
    model = Model()
    bmt.save(model, path)
    saved = torch.load(path, weights_only=True)
    assert list(saved) == ["blocks.0.weight", "blocks.0.bias", "head.weight", "head.bias"]
    assert torch.equal(saved["blocks.0.weight"], seeded(1, 6, 6))
    assert torch.equal(saved["head.bias"], seeded(2, 6))
    bmt.init_parameters(model)
    assert model.state_dict()["head.weight"].abs().sum() == 0
    bmt.load(model, path)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name].cpu(), value) for name, value in saved.items())


def check_inspect_model() -> None:
    """The summary is of whole parameters and gradients, although each rank holds a part."""
    model = Model()
    model(seeded(3, 4, 6).cuda()).square().mean().backward()
    plain = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    plain.load_state_dict({f"{i}.{name}": value for i in (0, 1) for name, value in Layer().state_dict().items()})
    (SIZE * plain(seeded(3, 4, 6)).square().mean()).backward()
    summary = {row["name"]: row for row in bmt.inspect.inspect_model(model, "*")}
    assert list(summary) == ["blocks.0.weight", "blocks.0.bias", "head.weight", "head.bias"]
    for name, parameter in zip(summary, plain.parameters(), strict=True):
        value, row = parameter.detach(), summary[name]
        expected = [value.mean(), value.std(), value.max(), value.min(), parameter.grad.mean(), parameter.grad.std()]
        found = torch.tensor([row[key] for key in ("mean", "std", "max", "min", "grad_mean", "grad_std")])
        torch.testing.assert_close(found, torch.stack(expected))
        assert row["shape"] == tuple(value.shape)
    assert "head.weight" in bmt.inspect.format_summary(list(summary.values()))


def check_inspect_tensor() -> None:
    model = Model()
    with bmt.inspect.inspect_tensor() as inspector:
        output = model(torch.full((2, 6), RANK + 1.0).cuda().requires_grad_())
        output.sum().backward()
    first, second = inspector.get_summary()
    assert (first["name"], second["name"]) == ("0.hidden", "1.hidden")
    assert second["shape"] == (2 * SIZE, 6)
    assert second["mean"] == torch.stack(list(bmt.distributed.all_gather(output.detach()))).mean().item()
    assert second["max"] == bmt.distributed.all_reduce(output.detach().max(), "max").item()
    assert (second["grad_mean"], second["grad_std"]) == (1.0, 0.0)


def check_an_overflow_on_one_rank_skips_the_step_on_all() -> None:
    model = Model(torch.float16)
    optimizer = bmt.optim.AdamOptimizer(model.parameters(), lr=0.1)
    manager = bmt.optim.OptimManager(loss_scale=1024, loss_scale_factor=2, loss_scale_steps=2)
    manager.add_optimizer(optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scales = []
    for overflow in (True, False, False, False):
        manager.zero_grad()
        loss = model(seeded(4, 2, 6).half().cuda()).float().square().mean()
        manager.backward(loss * float("inf") if overflow and RANK == 1 else loss)
        manager.step()
        scales.append(manager.loss_scale)
        if overflow:
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert scales == [512, 512, 1024, 1024]
    assert all(value.isfinite().all() and not torch.equal(value, before[n]) for n, value in model.state_dict().items())


def check_clipping_takes_the_norm_over_all_ranks() -> None:
    model = Model()
    manager = bmt.optim.OptimManager(loss_scale=8.0, grad_scale=SIZE)
    optimizer = bmt.optim.AdamOptimizer(model.parameters())
    manager.add_optimizer(optimizer)
    manager.backward(model(seeded(3, 4, 6).cuda()).square().mean())
    plain = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    plain.load_state_dict({f"{i}.{name}": value for i in (0, 1) for name, value in Layer().state_dict().items()})
    plain(seeded(3, 4, 6)).square().mean().backward()
    expected = torch.stack([parameter.grad.norm() for parameter in plain.parameters()]).norm()
    norm = manager.clip_grad_norm(optimizer.param_groups, max_norm=0.25)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(manager.clip_grad_norm(optimizer.param_groups, max_norm=10.0), torch.tensor(0.25))


def check_a_resumed_optimizer_continues_as_if_it_had_not_stopped() -> None:
    """Each rank's state_dict goes through a file; weights go through bmt.save."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for kind in (bmt.optim.AdamOptimizer, bmt.optim.AdamOffloadOptimizer):
            model = Model(dtype)
            optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1)
            train(model, optimizer, 2)
            bmt.save(model, str(FOLDER / "weights.pt"))
            torch.save(optimizer.state_dict(), FOLDER / f"optimizer.{RANK}.pt")
            train(model, optimizer, 2)

            resumed = Model(dtype)
            bmt.load(resumed, str(FOLDER / "weights.pt"))
            other = kind(resumed.parameters(), lr=0.5)
            other.load_state_dict(torch.load(FOLDER / f"optimizer.{RANK}.pt", weights_only=True))
            train(resumed, other, 2)
            expected = model.state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items()), (
                dtype,
                kind,
            )


def train(model: Model, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(seeded(20 + step, 4, 6).to(next(model.parameters()).dtype).cuda()).float().square().mean().backward()
        optimizer.step()


run_checks(globals())
