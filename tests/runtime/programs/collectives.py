"""Every function of fm9g/runtime/collectives.py against what torch computes in float64 from all ranks' inputs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fm9g import runtime
from fm9g.runtime import collectives
from tests.support.checks import run_checks

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float64)
OPERATORS = ("sum", "avg", "prod", "max", "min")
LENGTHS = (1, 7, 64)  # fewer elements than ranks, a length that ranks do not divide, and one that they do

runtime.initialize(seed=1)
RANK, SIZE = runtime.rank(), runtime.world_size()
WORLD = runtime.bmt.config["comm"]


def contribution(rank: int, length: int, dtype: torch.dtype) -> Tensor:
    """What `rank` puts in: known to every rank, small enough for no sum or product to overflow."""
    generator = torch.Generator().manual_seed(100 * length + rank)
    if dtype.is_floating_point:
        return (torch.rand(length, generator=generator) * 3 - 1).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 4, (length,), generator=generator).to(dtype)


def contributions(length: int, dtype: torch.dtype) -> Tensor:
    return torch.stack([contribution(rank, length, dtype) for rank in range(SIZE)])


def reference(parts: Tensor, op: str) -> Tensor:
    """[ranks, n] -> [n], in float64 and rounded once."""
    wide = parts.double()
    if op == "avg":
        return wide.mean(0).to(parts.dtype)
    if op == "sum":
        return wide.sum(0).to(parts.dtype)
    if op == "prod":
        return wide.prod(0).to(parts.dtype)
    return (wide.amax(0) if op == "max" else wide.amin(0)).to(parts.dtype)


def cases() -> Iterator[tuple[torch.dtype, int, Any]]:
    for dtype in DTYPES:
        for length in LENGTHS:
            for op in OPERATORS:
                if op != "avg" or dtype.is_floating_point:  # NCCL too averages integers by a truncating division
                    yield dtype, length, op


def close(result: Tensor, expected: Tensor) -> bool:
    """Equal: to the last bit, but for float32, which may add in another order than the float64 reference."""
    if result.dtype == torch.float32:
        return torch.allclose(result, expected, rtol=1e-6, atol=1e-6)
    if result.dtype == torch.float64:
        return torch.allclose(result, expected, rtol=1e-14, atol=1e-14)
    return torch.equal(result, expected)


def check_all_reduce() -> None:
    for dtype, length, op in cases():
        source, target = contribution(RANK, length, dtype), torch.zeros(length, dtype=dtype)
        collectives.allReduce(source.storage(), target.storage(), op, WORLD)
        assert close(target, reference(contributions(length, dtype), op)), (dtype, length, op)
        assert torch.equal(source, contribution(RANK, length, dtype))


def check_all_reduce_in_place() -> None:
    for dtype, length, op in cases():
        tensor = contribution(RANK, length, dtype)
        collectives.allReduce(tensor.storage(), tensor.storage(), op, WORLD)
        assert close(tensor, reference(contributions(length, dtype), op)), (dtype, length, op)


def check_reduce() -> None:
    root = SIZE - 1
    for dtype, length, op in cases():
        source, target = contribution(RANK, length, dtype), torch.zeros(length, dtype=dtype)
        collectives.reduce(source.storage(), target.storage(), op, root, WORLD)
        expected = reference(contributions(length, dtype), op) if root == RANK else torch.zeros(length, dtype=dtype)
        assert close(target, expected), (dtype, length, op)


def check_reduce_scatter() -> None:
    for dtype, length, op in cases():
        source, target = contribution(RANK, length * SIZE, dtype), torch.zeros(length, dtype=dtype)
        collectives.reduceScatter(source.storage(), target.storage(), op, WORLD)
        block = contributions(length * SIZE, dtype)[:, length * RANK : length * (RANK + 1)]
        assert close(target, reference(block, op)), (dtype, length, op)


def check_all_gather() -> None:
    for dtype in DTYPES:
        for length in LENGTHS:
            source, target = contribution(RANK, length, dtype), torch.zeros(length * SIZE, dtype=dtype)
            collectives.allGather(source.storage(), target.storage(), WORLD)
            assert torch.equal(target.view(SIZE, length), contributions(length, dtype)), (dtype, length)


def check_all_gather_in_place() -> None:
    """The send buffer is this rank's part of the receive buffer, as NCCL allows."""
    whole = torch.full((SIZE, 5), -1.0)
    whole[RANK] = contribution(RANK, 5, torch.float32)
    collectives.allGather(whole[RANK].clone().storage(), whole.storage(), WORLD)
    assert torch.equal(whole, contributions(5, torch.float32))


def check_broadcast() -> None:
    for root in range(SIZE):
        for dtype in DTYPES:
            source, target = contribution(RANK, 7, dtype), torch.zeros(7, dtype=dtype)
            collectives.broadcast(source.storage(), target.storage(), root, WORLD)
            assert torch.equal(target, contribution(root, 7, dtype)), (root, dtype)
            collectives.broadcast(source.storage(), source.storage(), root, WORLD)
            assert torch.equal(source, contribution(root, 7, dtype)), (root, dtype)


def check_send_and_recv() -> None:
    """Every pair of ranks, in both directions."""
    for dtype in DTYPES:
        for sender in range(SIZE):
            for receiver in range(SIZE):
                if RANK == sender != receiver:
                    collectives.send(contribution(RANK, 7, dtype).storage(), receiver, WORLD)
                if RANK == receiver != sender:
                    received = torch.zeros(7, dtype=dtype)
                    collectives.recv(received.storage(), sender, WORLD)
                    assert torch.equal(received, contribution(sender, 7, dtype)), (dtype, sender, receiver)


def check_half_types_round_a_sum_once() -> None:
    """256 + 1 + 1 + 1 is 260 in bfloat16 when it is rounded once, and 256 when every addition is."""
    large, step = (256.0, 1.0) if SIZE == 4 else (256.0, 3.0)
    value = torch.tensor([large if RANK == 0 else step], dtype=torch.bfloat16)
    expected = torch.tensor([large + (SIZE - 1) * step]).bfloat16().item()
    collectives.allReduce(value.storage(), value.storage(), "sum", WORLD)
    assert value.item() == expected == 260.0


def check_avg_of_half_types_does_not_overflow() -> None:
    value = torch.full((3,), 60000.0, dtype=torch.float16)
    collectives.allReduce(value.storage(), value.storage(), "avg", WORLD)
    assert value.tolist() == [60000.0] * 3


def check_not_a_number_is_seen_by_all() -> None:
    for op in ("sum", "max", "min"):
        value = torch.tensor([float("nan") if RANK == SIZE - 1 else 1.0, 2.0])
        collectives.allReduce(value.storage(), value.storage(), op, WORLD)
        assert value.isnan().tolist() == [True, False], op


def check_sub_communicators() -> None:
    """Two groups that work at the same time: even and odd ranks, each with its own numbering."""
    names = [pickle.loads(name) for name in runtime.gather_bytes(pickle.dumps(collectives.getUniqueId()))]
    members = [rank for rank in range(SIZE) if rank % 2 == RANK % 2]
    group = collectives.commInitRank(names[RANK % 2], len(members), members.index(RANK))
    assert (collectives.commCount(group), collectives.commRank(group)) == (len(members), RANK // 2)
    value = torch.tensor([float(RANK + 1)])
    collectives.allReduce(value.storage(), value.storage(), "sum", group)
    assert value.item() == sum(rank + 1 for rank in members)
    collectives.commDestroy(group)
    with pytest.raises(RuntimeError, match="destroyed"):
        collectives.allReduce(value.storage(), value.storage(), "sum", group)


def check_a_group_of_one_copies() -> None:
    alone = collectives.commInitRank(collectives.getUniqueId(), 1, 0)
    source, target = torch.arange(4.0), torch.zeros(4)
    calls: list[Callable[[], None]] = [
        lambda: collectives.allReduce(source.storage(), target.storage(), "sum", alone),
        lambda: collectives.reduce(source.storage(), target.storage(), "sum", 0, alone),
        lambda: collectives.reduceScatter(source.storage(), target.storage(), "avg", alone),
        lambda: collectives.allGather(source.storage(), target.storage(), alone),
        lambda: collectives.broadcast(source.storage(), target.storage(), 0, alone),
    ]
    for call in calls:
        target.zero_()
        call()
        assert torch.equal(target, source)


def check_buffers_that_do_not_fit_are_rejected_by_name() -> None:
    """On a GPU such a call reads or writes past the end of a buffer."""
    one, two = torch.zeros(1), torch.zeros(2)
    many = torch.zeros(2 * SIZE + 1)
    calls: dict[str, Callable[[], None]] = {
        "allReduce": lambda: collectives.allReduce(one.storage(), two.storage(), "sum", WORLD),
        "reduce": lambda: collectives.reduce(two.storage(), one.storage(), "sum", 0, WORLD),
        "broadcast": lambda: collectives.broadcast(one.storage(), two.storage(), 0, WORLD),
        "allGather": lambda: collectives.allGather(two.storage(), many.storage(), WORLD),
        "reduceScatter": lambda: collectives.reduceScatter(many.storage(), two.storage(), "sum", WORLD),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name}: the send buffer holds .* do not fit the receive buffer"):
            call()
    with pytest.raises(ValueError, match=r"the send buffer is torch\.float32, the receive buffer torch\.int64"):
        collectives.allReduce(one.storage(), torch.zeros(1, dtype=torch.int64).storage(), "sum", WORLD)


def check_an_unknown_reduction_is_rejected() -> None:
    value = torch.ones(1)
    with pytest.raises(ValueError, match="unknown reduction 'mean': use one of sum, avg, prod, max, min"):
        collectives.allReduce(value.storage(), value.storage(), "mean", WORLD)  # type: ignore[arg-type]


def check_runtime_all_reduce_keeps_64_bits() -> None:
    """Numbers beyond float32's 24 bits: token counts and losses."""
    large = (1 << 60) + RANK
    assert runtime.all_reduce(large) == SIZE * (1 << 60) + sum(range(SIZE))
    assert runtime.all_reduce(1 + 2.0**-40 * RANK, "max") == 1 + 2.0**-40 * (SIZE - 1)
    assert runtime.all_reduce(RANK, "min") == 0
    assert type(runtime.all_reduce(RANK)) is int
    assert type(runtime.all_reduce(0.5)) is float


def check_runtime_all_reduce_leaves_its_argument() -> None:
    whole = torch.arange(12.0).view(3, 4)
    column = whole[:, 1]  # neither contiguous nor at the start of its storage
    assert runtime.all_reduce(column).tolist() == [SIZE * value for value in (1.0, 5.0, 9.0)]
    assert torch.equal(whole, torch.arange(12.0).view(3, 4))


def check_runtime_gather() -> None:
    assert runtime.gather((1 << 53) + 1 + RANK) == [(1 << 53) + 1 + rank for rank in range(SIZE)]
    assert runtime.gather(RANK / 3) == [rank / 3 for rank in range(SIZE)]
    rows = runtime.gather(torch.full((2, 3), RANK))
    assert rows.shape == (SIZE, 2, 3)
    assert rows[:, 0, 0].tolist() == list(range(SIZE))
    assert runtime.gather(torch.zeros(0, 3)).shape == (SIZE, 0, 3)


def check_runtime_gather_bytes_of_any_length() -> None:
    assert runtime.gather_bytes(b"\0\xff" * RANK) == [b"\0\xff" * rank for rank in range(SIZE)]
    assert runtime.gather_bytes(b"") == [b""] * SIZE


def check_runtime_broadcast() -> None:
    for root in range(SIZE):
        mine = torch.full((2, 2), RANK, dtype=torch.int64)
        assert runtime.broadcast(mine, root).tolist() == [[root, root], [root, root]]
        assert mine.tolist() == [[RANK, RANK], [RANK, RANK]]


run_checks(globals())
