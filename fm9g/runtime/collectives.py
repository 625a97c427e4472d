"""BMTrain's `bmtrain.nccl` over torch.distributed: the same functions on storages, on gloo or NCCL.

On the CPU only bytes travel and the arithmetic is done here, in float32 for the half types and in rank order:
every dtype works on every version of gloo, and results do not depend on how a ring is laid.
"""

from __future__ import annotations

import atexit
import datetime
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from fm9g.runtime import process

Operator = Literal["sum", "prod", "max", "min", "avg"]

_timeout = datetime.timedelta(minutes=30)

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda parts: parts.sum(0),
    "avg": lambda parts: parts.sum(0) / parts.size(0),
    "prod": lambda parts: parts.prod(0),
    "max": lambda parts: parts.amax(0),
    "min": lambda parts: parts.amin(0),
}


def reduce_parts(parts: Tensor, op: str) -> Tensor:
    """Reduce [ranks, n] to [n]; half types are accumulated in float32 and rounded once."""
    dtype = parts.dtype
    if op not in _REDUCTIONS:
        raise ValueError(f"unknown reduction {op!r}: use one of {', '.join(_REDUCTIONS)}")
    wide = parts.float() if dtype in (torch.float16, torch.bfloat16) else parts
    if dtype == torch.bool:
        wide = parts.to(torch.uint8)
    return _REDUCTIONS[op](wide).to(dtype)


class GlooTransport:
    """Collectives on CPU tensors over a gloo process group."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._timeout, options._devices = _timeout, self._devices()
        self._group: Any = gloo(store, rank, size, options)

    @staticmethod
    def _devices() -> list[Any]:
        """The network to rank 0, unless GLOO_SOCKET_IFNAME names others. gloo would take the one that the host's name
        stands for, which is often 127.0.1.1."""
        make, named = dist.ProcessGroupGloo.create_device, os.environ.get("GLOO_SOCKET_IFNAME", "")
        if named:
            return [make(interface=name) for name in named.split(",")]
        return [make(hostname=process.own_address())]

    def all_gather(self, source: Tensor, target: Tensor) -> None:
        parts = [torch.empty_like(_bytes(source)) for _ in range(self.size)]
        self._group.allgather([parts], [_bytes(source)]).wait()
        torch.cat(parts, out=_bytes(target))

    def _exchange(self, source: Tensor) -> Tensor:
        """Send the i-th of `size` blocks to rank i: [size * n] -> [size, n] of the blocks for this rank."""
        received = torch.empty_like(source)
        self._group.alltoall_base(_bytes(received), _bytes(source), [], []).wait()
        return received.view(self.size, -1)

    def reduce_scatter(self, source: Tensor, target: Tensor, op: str) -> None:
        target.copy_(reduce_parts(self._exchange(source), op))

    def all_reduce(self, source: Tensor, target: Tensor, op: str) -> None:
        share = -(-source.numel() // self.size)
        padded = torch.zeros(share * self.size, dtype=source.dtype)
        padded[: source.numel()] = source
        reduced = torch.empty_like(padded)
        self.all_gather(reduce_parts(self._exchange(padded), op), reduced)
        target.copy_(reduced[: source.numel()])

    def broadcast(self, tensor: Tensor, root: int) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = root, 0
        self._group.broadcast([_bytes(tensor)], options).wait()

    def send(self, source: Tensor, peer: int) -> None:
        self._group.send([_bytes(source)], peer, 0).wait()

    def receive(self, target: Tensor, peer: int) -> None:
        self._group.recv([_bytes(target)], peer, 0).wait()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)


class NcclTransport:
    """Collectives on CUDA tensors over a torch.distributed NCCL process group, on the current stream."""

    _OPERATORS: ClassVar[dict[str, Any]] = {
        "sum": dist.ReduceOp.SUM,
        "avg": dist.ReduceOp.AVG,
        "prod": dist.ReduceOp.PRODUCT,
        "max": dist.ReduceOp.MAX,
        "min": dist.ReduceOp.MIN,
    }

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = _timeout
        self._group: Any = dist.ProcessGroupNCCL(store, rank, size, options)

    def all_gather(self, source: Tensor, target: Tensor) -> None:
        self._group._allgather_base(target, source).wait()

    def reduce_scatter(self, source: Tensor, target: Tensor, op: str) -> None:
        options = dist.ReduceScatterOptions()
        options.reduceOp = self._OPERATORS[op]
        self._group._reduce_scatter_base(target, source, options).wait()

    def all_reduce(self, source: Tensor, target: Tensor, op: str) -> None:
        options = dist.AllreduceOptions()
        options.reduceOp = self._OPERATORS[op]
        if source.data_ptr() != target.data_ptr():
            target.copy_(source)
        self._group.allreduce([target], options).wait()

    def broadcast(self, tensor: Tensor, root: int) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = root, 0
        self._group.broadcast([tensor], options).wait()

    def send(self, source: Tensor, peer: int) -> None:
        self._group.send([source], peer, 0).wait()

    def receive(self, target: Tensor, peer: int) -> None:
        self._group.recv([target], peer, 0).wait()


class NCCLCommunicator:
    """A group of ranks that talk to each other. `transport` is None for a group of one."""

    def __init__(self, rank: int, size: int, transport: GlooTransport | NcclTransport | None) -> None:
        self.rank, self.size, self.transport = rank, size, transport
        self.destroyed = False
        self.counted = True  # among those by which it is told which rank is late


_communicators: list[NCCLCommunicator] = []


@atexit.register
def _close_all() -> None:
    # a gloo group that is still open when the interpreter is torn down aborts the process
    for communicator in _communicators:
        commDestroy(communicator)
    _communicators.clear()


def _tensor(storage: Any) -> Tensor:
    return torch.empty(0, dtype=storage.dtype, device=storage.device).set_(storage)


def _live(comm: NCCLCommunicator) -> NCCLCommunicator:
    if comm.destroyed:
        raise RuntimeError("this communicator was destroyed")
    return comm


def _run(comm: NCCLCommunicator, name: str, call: Callable[[GlooTransport | NcclTransport], None]) -> None:
    assert comm.transport is not None
    if comm.counted:
        process.come_to_collective()
    ended = _measure.begin() if _measure is not None and comm.counted else None
    try:
        call(comm.transport)
    except RuntimeError as error:
        raise process.blame(name, error) from error
    if ended is not None:
        ended()


class _Measure:
    """What collectives take: on the CPU the time in them, on the GPU that between events before and after."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> Callable[[], None]:
        """Begin one; what is returned is to be called at its end."""
        if process.on_cuda():
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._events.append(pair)
            pair[0].record()
            return pair[1].record
        started = time.perf_counter()

        def end() -> None:
            self._seconds += time.perf_counter() - started

        return end

    def seconds(self) -> float:
        """All of them; on the GPU what was given to it must have been done."""
        return self._seconds + sum(first.elapsed_time(last) for first, last in self._events) / 1e3


def set_timeout(seconds: float) -> None:
    """How long a collective of the groups that are made from now on may take."""
    global _timeout
    _timeout = datetime.timedelta(seconds=seconds)


_measure: _Measure | None = None


def measure() -> None:
    """Measure what collectives take, from now on until `measured`."""
    global _measure
    _measure = _Measure()


def measured() -> float:
    """Seconds that this rank has spent in collectives since `measure`, waiting for others and sending."""
    global _measure
    found, _measure = _measure, None
    return found.seconds() if found else 0.0


def gathered_bytes(value: bytes, gather: Callable[[Tensor], Tensor]) -> list[bytes]:
    """Every rank's bytes, of any lengths; `gather` gives every rank's tensor of one shape, [ranks, ...]."""
    lengths = gather(torch.tensor([len(value)])).flatten().tolist()
    padded = torch.zeros(max(*lengths, 1), dtype=torch.uint8)
    padded[: len(value)] = torch.frombuffer(bytearray(value), dtype=torch.uint8) if value else padded[:0]
    rows = gather(padded).cpu().numpy()
    return [rows[i, :length].tobytes() for i, length in enumerate(lengths)]


def host_communicator(unique_id: bytes, size: int, rank: int) -> NCCLCommunicator:
    """Join the group of that name, whose tensors are on the host whatever the ranks compute on."""
    communicator = _join(unique_id, size, rank, GlooTransport)
    communicator.counted = False
    return communicator


def _join(unique_id: bytes, size: int, rank: int, transport: type[GlooTransport | NcclTransport]) -> NCCLCommunicator:
    alone = size == 1
    store = None if alone else dist.PrefixStore(unique_id.hex(), process.store())
    communicator = NCCLCommunicator(rank, size, None if alone else transport(store, rank, size))
    _communicators.append(communicator)
    return communicator


# from here on BMTrain's names and signatures


def getUniqueId() -> bytes:
    """A name for a new group, to be told to its other ranks."""
    return process.unique_name()


def commInitRank(unique_id: bytes, world_size: int, rank: int) -> NCCLCommunicator:
    """Join the group of that name as `rank` of `world_size`."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not below the group's size {world_size}")
    return _join(unique_id, world_size, rank, NcclTransport if process.on_cuda() else GlooTransport)


def commDestroy(comm: NCCLCommunicator) -> None:
    """Leave the group."""
    comm.transport, comm.destroyed = None, True


def commCount(comm: NCCLCommunicator) -> int:
    """The number of ranks."""
    return _live(comm).size


def commRank(comm: NCCLCommunicator) -> int:
    """This process's rank."""
    return _live(comm).rank


def allReduce(src: Any, dst: Any, op: Operator, comm: NCCLCommunicator) -> None:
    """Reduce over the ranks into every rank's `dst`; `src` and `dst` may be one."""
    source, target = _pair("allReduce", src, dst, 1, 1)
    if _live(comm).size == 1:
        target.copy_(source)
    else:
        _run(comm, "allReduce", lambda transport: transport.all_reduce(source, target, op))


def reduce(src: Any, dst: Any, op: Operator, root: int, comm: NCCLCommunicator) -> None:
    """Reduce over the ranks into `dst` of the root alone."""
    source, target = _pair("reduce", src, dst, 1, 1)
    if _live(comm).size == 1:
        target.copy_(source)
        return
    result = target if comm.rank == root else torch.empty_like(source)
    _run(comm, "reduce", lambda transport: transport.all_reduce(source, result, op))


def broadcast(src: Any, dst: Any, root: int, comm: NCCLCommunicator) -> None:
    """Copy the root's `src` into every rank's `dst`; they may be one."""
    source, target = _pair("broadcast", src, dst, 1, 1)
    if target.data_ptr() != source.data_ptr() and _live(comm).rank == root:
        target.copy_(source)
    if _live(comm).size > 1:
        _run(comm, "broadcast", lambda transport: transport.broadcast(target, root))


def allGather(src: Any, dst: Any, comm: NCCLCommunicator) -> None:
    """Put the `src` of all ranks, in rank order, into every rank's `dst`."""
    source, target = _pair("allGather", src, dst, _live(comm).size, 1)
    if comm.size == 1:
        target.copy_(source)
    else:
        _run(comm, "allGather", lambda transport: transport.all_gather(source, target))


def reduceScatter(src: Any, dst: Any, op: Operator, comm: NCCLCommunicator) -> None:
    """Reduce `src` over the ranks and put its i-th block into `dst` of rank i."""
    source, target = _pair("reduceScatter", src, dst, 1, _live(comm).size)
    if comm.size == 1:
        target.copy_(source)
    else:
        _run(comm, "reduceScatter", lambda transport: transport.reduce_scatter(source, target, op))


def send(src: Any, peer: int, comm: NCCLCommunicator) -> None:
    """Send to `peer`, which must call recv."""
    _run(_live(comm), "send", lambda transport: transport.send(_tensor(src), peer))


def recv(dst: Any, peer: int, comm: NCCLCommunicator) -> None:
    """Receive from `peer`, which must call send."""
    _run(_live(comm), "recv", lambda transport: transport.receive(_tensor(dst), peer))


def groupStart() -> None:
    """A hint that is not needed here."""


def groupEnd() -> None:
    """A hint that is not needed here."""


def _pair(name: str, src: Any, dst: Any, src_times: int, dst_times: int) -> tuple[Tensor, Tensor]:
    """The two buffers as flat tensors; src_times * src must be as large as dst_times * dst."""
    if src.dtype != dst.dtype:
        raise ValueError(f"{name}: the send buffer is {src.dtype}, the receive buffer {dst.dtype}")
    if src.size() * src_times != dst.size() * dst_times:
        factors = f"(times {src_times})" if src_times > 1 else "", f"(times {dst_times})" if dst_times > 1 else ""
        raise ValueError(
            f"{name}: the send buffer holds {src.size()} elements {factors[0]}, "
            f"which do not fit the receive buffer's {dst.size()} {factors[1]}"
        )
    return _tensor(src), _tensor(dst)
