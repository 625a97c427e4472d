"""What `torch.cuda` and CUDA tensors are to BMTrain's own modules where there is no GPU.

Everything on a CPU happens in program order, so streams and events have nothing left to do.
Names that are not here fall through to the real `torch.cuda`; devices as arguments are in devices.py.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import resource
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from fm9g.runtime.devices import Devices


class Stream:
    """A queue that is always empty."""

    cuda_stream = 0

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = torch.device("cpu")

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: Stream) -> None: ...

    def wait_event(self, event: Event) -> None: ...

    def query(self) -> bool:
        return True

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record()
        return event


class Event:
    """A moment that has always passed."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._seconds = time.perf_counter()

    def record(self, stream: Stream | None = None) -> None:
        self._seconds = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to `end`, as torch.cuda.Event gives them."""
        return 1000 * (end._seconds - self._seconds)


_default_stream = Stream()


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What has nothing to do on a CPU."""


class DeviceContext(contextlib.nullcontext[None]):
    """`torch.cuda.device(number)`: there is but one device."""

    def __init__(self, device: Any = None) -> None:
        super().__init__()


class _Autocast(torch.autocast):
    """`torch.cuda.amp.autocast`, on the CPU in the same type."""

    def __init__(self, enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True) -> None:
        super().__init__("cpu", dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


class Nvtx:
    """`torch.cuda.nvtx`: ranges that no profiler sees."""

    mark = range_start = range_end = range_push = range_pop = staticmethod(_nothing)

    @staticmethod
    @contextlib.contextmanager
    def range(message: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    annotate = range  # of the package nvtx, which programs spell alike


AMP = SimpleNamespace(
    autocast=_Autocast,
    GradScaler=functools.partial(torch.amp.GradScaler, "cpu"),
    custom_fwd=functools.partial(torch.amp.custom_fwd, device_type="cpu"),
    custom_bwd=functools.partial(torch.amp.custom_bwd, device_type="cpu"),
)
PROFILER = SimpleNamespace(start=_nothing, stop=_nothing, profile=contextlib.nullcontext)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Memory:
    """The memory statistics of `torch.cuda`: a CPU keeps no count of its own for tensors, so those of the process."""

    @staticmethod
    def memory_allocated(device: Any = None) -> int:
        """Bytes of resident memory."""
        return _resident_bytes()

    memory_reserved = memory_cached = memory_allocated

    @staticmethod
    def max_memory_allocated(device: Any = None) -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # brought up to date now and then only
        return max(peak, _resident_bytes())

    max_memory_reserved = max_memory_cached = max_memory_allocated

    @staticmethod
    def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
        return f"resident memory: {_resident_bytes()} bytes, peak {Memory.max_memory_allocated()} bytes"

    @staticmethod
    def memory_stats(device: Any = None) -> dict[str, int]:
        """Current and peak bytes; every other statistic is 0."""
        current, peak = _resident_bytes(), Memory.max_memory_allocated()
        stats: dict[str, int] = collections.defaultdict(int)
        for kind in ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes"):
            stats.update({f"{kind}.all.current": current, f"{kind}.all.peak": peak})
        return stats

    @staticmethod
    def mem_get_info(device: Any = None) -> tuple[int, int]:
        """Free and total bytes of the machine's memory."""
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _machine_bytes()

    @staticmethod
    def memory_snapshot(*args: Any) -> list[Any]:
        return []

    empty_cache = ipc_collect = set_per_process_memory_fraction = staticmethod(_nothing)
    reset_peak_memory_stats = reset_accumulated_memory_stats = staticmethod(_nothing)
    reset_max_memory_allocated = reset_max_memory_cached = staticmethod(_nothing)


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Random:
    """The random numbers of `torch.cuda`: the one generator there is."""

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    @staticmethod
    def seed() -> None:
        torch.seed()

    seed_all = seed

    @staticmethod
    def initial_seed() -> int:
        return torch.initial_seed()

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def get_rng_state_all() -> list[torch.Tensor]:
        return [torch.get_rng_state()] * CpuDevice.device_count()

    @staticmethod
    def set_rng_state_all(states: Sequence[torch.Tensor]) -> None:
        torch.set_rng_state(states[CpuDevice.current_device()])

    @staticmethod
    def fork_rng(devices: Any = None, enabled: bool = True, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
        """`torch.random.fork_rng` over the one generator there is."""
        return torch.random.fork_rng(devices=[], enabled=enabled)


class CpuDevice(Devices, Memory, Random):
    """Stands where a program wrote `torch.cuda`, and (Devices) takes its devices."""

    Stream = ExternalStream = Stream
    Event = Event
    FloatTensor = torch.FloatTensor
    DoubleTensor = torch.DoubleTensor
    HalfTensor = torch.HalfTensor
    BFloat16Tensor = torch.BFloat16Tensor
    LongTensor = torch.LongTensor
    IntTensor = torch.IntTensor
    ShortTensor = torch.ShortTensor
    CharTensor = torch.CharTensor
    ByteTensor = torch.ByteTensor
    BoolTensor = torch.BoolTensor
    FloatStorage = torch.FloatStorage
    DoubleStorage = torch.DoubleStorage
    HalfStorage = torch.HalfStorage
    BFloat16Storage = torch.BFloat16Storage
    LongStorage = torch.LongStorage
    BoolStorage = torch.BoolStorage
    CharStorage = torch.CharStorage
    ByteStorage = torch.ByteStorage
    ShortStorage = torch.ShortStorage
    IntStorage = torch.IntStorage
    device = device_of = DeviceContext
    nvtx = Nvtx
    amp = AMP
    profiler = PROFILER
    init = set_device = synchronize = set_stream = staticmethod(_nothing)

    def __getattr__(self, name: str) -> Any:
        return self if name in ("memory", "random", "streams") else getattr(torch.cuda, name)

    @staticmethod
    def is_available() -> bool:
        return True

    is_initialized = is_available

    @staticmethod
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return True

    @staticmethod
    def is_current_stream_capturing() -> bool:
        return False

    @staticmethod
    def device_count() -> int:
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    @staticmethod
    def current_device() -> int:
        return int(os.environ.get("LOCAL_RANK", "0"))

    @staticmethod
    def get_device_name(device: Any = None) -> str:
        return "CPU"

    @staticmethod
    def get_device_capability(device: Any = None) -> tuple[int, int]:
        """(8, 0), the first that has bf16: what programs read out of it."""
        return (8, 0)

    @staticmethod
    def get_device_properties(device: Any = None) -> SimpleNamespace:
        major, minor = CpuDevice.get_device_capability()
        cores = os.cpu_count() or 1
        return SimpleNamespace(
            name="CPU", major=major, minor=minor, total_memory=_machine_bytes(), multi_processor_count=cores
        )

    @staticmethod
    def can_device_access_peer(device: Any, peer: Any) -> bool:
        return True

    @staticmethod
    def current_stream(device: Any = None) -> Any:
        return _default_stream

    default_stream = current_stream

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: Any) -> Iterator[None]:
        yield


device = CpuDevice()
