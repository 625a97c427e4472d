"""BMTrain on the device at hand: CUDA with its own extension, CUDA without it, or plain CPUs.

Import this before anything imports `bmtrain`: it decides how BMTrain is loaded (see docs/runtime.md).

    import fm9g.runtime as runtime
    runtime.initialize(seed=1234)
    total = runtime.all_reduce(3.5)          # over all ranks
    model = runtime.bmt.BMTrainModelWrapper(model)
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from fm9g.environment import check_ranks
from fm9g.runtime import collectives, process
from fm9g.runtime.backend import Backend, choose
from fm9g.runtime.collectives import gathered_bytes
from fm9g.runtime.replacements import import_bmtrain

backend: Backend = choose()
process.use_cuda(backend.on_cuda)
bmt: Any = import_bmtrain(backend)

Value = TypeVar("Value", int, float, Tensor)


def initialize(seed: int = 0, tp_size: int = 1, collective_seconds: float = 1800.0) -> None:
    """Start the process group and seed torch, numpy and random with `seed`; a collective may take so many seconds.

    Rank and world size come from the launcher's environment; without one this is a run of a single rank.
    A missing or mismatched rank is a UserError that names it.
    """
    if bmt.init.is_initialized():
        raise RuntimeError("the runtime is initialised already")
    check_ranks()
    collectives.set_timeout(collective_seconds)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "0")
    with _quiet_initialization():
        bmt.init_distributed(seed=seed, tp_size=tp_size)
    if rank() == 0:
        print(describe(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _quiet_initialization() -> Any:
    """Keep BMTrain from printing a block for every rank of a large run."""
    printer = bmt.init.print_dict
    bmt.init.print_dict = lambda *args, **kwargs: None
    try:
        yield
    finally:
        bmt.init.print_dict = printer


def describe() -> str:
    """One line: the backend, why it was chosen, the device and the number of ranks."""
    return f"runtime: {backend.name} backend ({backend.reason}), {device_name()}, {world_size()} rank(s)"


def device() -> torch.device:
    """The device this rank computes on."""
    return torch.device("cuda", bmt.config["local_rank"]) if backend.on_cuda else torch.device("cpu")


def rank() -> int:
    """This process's number among all ranks."""
    return int(bmt.config["rank"])


def world_size() -> int:
    """The number of ranks."""
    return int(bmt.config["world_size"])


def local_rank() -> int:
    """This process's number among the ranks of its node."""
    return int(bmt.config["local_rank"])


def tp_rank() -> int:
    """This process's number in its tensor-parallel group, whose ranks follow each other."""
    return int(bmt.config["tp_rank"])


def tp_size() -> int:
    """The number of ranks in a tensor-parallel group."""
    return int(bmt.config["tp_size"])


def data_rank() -> int:
    """The number of this process's tensor-parallel group, all ranks of which read the same rows."""
    return rank() // tp_size()


def data_ranks() -> int:
    """How many parts the rows of a step are dealt to."""
    return world_size() // tp_size()


def barrier() -> None:
    """Wait until every rank is here."""
    bmt.synchronize()


def synchronize_device() -> None:
    """Wait until the device has done what it was given (a CPU always has)."""
    if backend.on_cuda:
        torch.cuda.synchronize()


def device_random_state() -> Tensor | None:
    """The state of the device's own random generator; a CPU has none beside torch's."""
    return torch.cuda.get_rng_state() if backend.on_cuda else None


def load_device_random_state(state: Tensor) -> None:
    """Restore what `device_random_state` gave; without an effect where the device has no such generator."""
    if backend.on_cuda:
        torch.cuda.set_rng_state(state)


def device_name() -> str:
    """The GPU's name, or the CPU with the threads that a rank has of it."""
    return torch.cuda.get_device_name() if backend.on_cuda else f"CPU, {torch.get_num_threads()} threads a rank"


def memory_bytes() -> int:
    """Peak memory of this rank since the start: of the GPU, or resident on a CPU."""
    if backend.on_cuda:
        return int(torch.cuda.max_memory_allocated())
    from fm9g.runtime.cpu import CpuDevice

    return CpuDevice.max_memory_allocated()


def give_back_all(model: Any) -> None:
    """Bring the blocks of a model of a rank that is alone back to where they can be used, after an exception in one."""
    from fm9g.runtime.zero_context import give_back_all as give_back

    give_back(model)


def release_memory() -> None:
    """Give back what the device's allocator keeps for later."""
    if backend.on_cuda:
        torch.cuda.empty_cache()


def free_bytes() -> int:
    """Memory that nobody has taken: of the GPU, or of the machine, shared among its ranks."""
    if backend.on_cuda:
        return int(torch.cuda.mem_get_info()[0])
    from fm9g.runtime.cpu import CpuDevice

    return CpuDevice.mem_get_info()[0] // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _as_tensor(value: int | float | Tensor) -> Tensor:
    """The value on this rank's device, owning its storage; Python numbers keep their 64 bits."""
    if isinstance(value, Tensor):
        return value.detach().to(device()).clone(memory_format=torch.contiguous_format)
    return torch.tensor([value], dtype=torch.int64 if isinstance(value, int) else torch.float64, device=device())


def all_reduce(value: Value, op: str = "sum") -> Value:
    """Reduce a number or a tensor over all ranks: sum, avg, max, min or prod. Every rank gets the result."""
    tensor = _as_tensor(value)
    bmt.nccl.allReduce(tensor.storage(), tensor.storage(), op, bmt.config["comm"])
    return tensor if isinstance(value, Tensor) else tensor.item()  # type: ignore[return-value]


def gather(value: int | float | Tensor) -> Any:
    """Every rank's value on every rank: a list of numbers, or a tensor [ranks, ...] for a tensor."""
    tensor = _as_tensor(value)
    gathered = tensor.new_empty((world_size(), *tensor.shape))
    if tensor.numel():
        bmt.nccl.allGather(tensor.storage(), gathered.storage(), bmt.config["comm"])
    return gathered if isinstance(value, Tensor) else gathered.flatten().tolist()


def gather_bytes(value: bytes) -> list[bytes]:
    """Every rank's bytes, of any lengths, on every rank."""
    return gathered_bytes(value, gather)


def first_said(text: str) -> str:
    """The first text of a rank that is not empty: the same on all ranks, so that a fault of one ends all alike."""
    return next((said.decode() for said in gather_bytes(text.encode()) if said), "")


def broadcast(tensor: Tensor, root: int = 0) -> Tensor:
    """The root's tensor on every rank; the others give one of the same shape and dtype."""
    result = _as_tensor(tensor)
    bmt.nccl.broadcast(result.storage(), result.storage(), root, bmt.config["comm"])
    return result


def expect_progress(seconds: float) -> None:
    """From now on end the run, with the stacks of who is late, when a rank has begun nothing new for so long."""
    process.expect_progress(seconds)


def begin(doing: str) -> None:
    """Say what this rank does now, for `expect_progress`. What is said in another thread than the main one does not
    count, unless that waits for it (`waiting_for_threads`)."""
    process.begin(doing)


@contextlib.contextmanager
def waiting_for_threads() -> Iterator[None]:
    """The main thread does nothing but wait for others, whose progress is this rank's."""
    process.wait_for_threads(True)
    try:
        yield
    finally:
        process.wait_for_threads(False)


def expect_nothing() -> None:
    """Let this rank take its time again."""
    process.expect_nothing()


def fail(reason: str, restart_helps: bool = True) -> None:
    """Tell the other ranks that this one cannot go on, so that they end and say why; and whether ranks that are started
    anew may come further."""
    process.fail(reason, restart_helps)
