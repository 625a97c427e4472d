"""What `torch.cuda` and CUDA tensors are to BMTrain's own modules where there is no GPU.

Names that are not here fall through to the real `torch.cuda`. Its modules are in cuda_modules.py and streams.py,
devices as arguments in devices.py.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import platform
import resource
import uuid
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from fm9g.runtime import cuda_modules
from fm9g.runtime.cuda_modules import missing, nothing
from fm9g.runtime.devices import Devices
from fm9g.runtime.streams import Event, Stream, default_stream


class DeviceContext(contextlib.nullcontext[None]):
    """`torch.cuda.device(number)`: there is but one device."""

    def __init__(self, device: Any = None) -> None:
        super().__init__()


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

    @staticmethod
    def _snapshot(device: Any = None, augment_with_fx_traces: bool = False) -> dict[str, list[Any]]:
        """Of a caching allocator, which a CPU has none of."""
        return {"segments": [], "device_traces": []}

    @staticmethod
    def _dump_snapshot(filename: str = "dump_snapshot.pickle", augment_with_fx_traces: bool = False) -> None:
        with open(filename, "wb") as file:
            pickle.dump(Memory._snapshot(), file)

    @staticmethod
    def get_allocator_backend() -> str:
        """The name of CUDA's usual one: no other was chosen."""
        return "native"

    _record_memory_history = staticmethod(nothing)
    empty_cache = ipc_collect = set_per_process_memory_fraction = staticmethod(nothing)
    reset_peak_memory_stats = reset_accumulated_memory_stats = staticmethod(nothing)
    reset_max_memory_allocated = reset_max_memory_cached = staticmethod(nothing)


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


class DeviceProperties(SimpleNamespace):
    """What `torch.cuda.get_device_properties` gives, as far as a CPU has it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(
            name="CPU",
            total_memory=_machine_bytes(),
            multi_processor_count=os.cpu_count() or 1,
            warp_size=1,  # a core's threads do not go in step
            uuid=uuid.uuid5(uuid.NAMESPACE_DNS, platform.node()),  # the machine's: its ranks share the CPU
            is_integrated=1,
            is_multi_gpu_board=0,
            **given,
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"torch.cuda.get_device_properties: a CPU has no {name}")


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
    amp = cuda_modules.amp
    nccl = cuda_modules.nccl
    nvtx = cuda_modules.nvtx
    profiler = cuda_modules.profiler
    tunable = cuda_modules.tunable
    init = _lazy_init = set_device = synchronize = set_stream = _sleep = staticmethod(nothing)

    def __getattr__(self, name: str) -> Any:
        if name in ("memory", "random", "streams"):
            return self
        return missing(name) if name in _ONLY_ON_A_GPU else getattr(torch.cuda, name)

    @property
    def default_generators(self) -> tuple[torch.Generator, ...]:
        return (torch.default_generator,) * self.device_count()

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
    def get_device_properties(device: Any = None) -> DeviceProperties:
        major, minor = CpuDevice.get_device_capability()
        return DeviceProperties(major=major, minor=minor)

    @staticmethod
    def cudart() -> cuda_modules.Cudart:
        return cuda_modules.cudart

    @staticmethod
    def check_error(res: int) -> None:
        """RuntimeError for a code of `cudart()` that is not success."""
        if res:
            raise RuntimeError(f"CUDA error {res}")

    @staticmethod
    def get_sync_debug_mode() -> int:
        """0, off: nothing on a CPU waits for a device."""
        return 0

    set_sync_debug_mode = staticmethod(nothing)

    @staticmethod
    def can_device_access_peer(device: Any, peer: Any) -> bool:
        return True

    @staticmethod
    def current_stream(device: Any = None) -> Any:
        return default_stream

    default_stream = current_stream

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: Any) -> Iterator[None]:
        yield


_ONLY_ON_A_GPU = {"current_blas_handle", "current_solver_handle", "graph_pool_handle", "caching_allocator_alloc"}
_ONLY_ON_A_GPU |= {"device_memory_used", "memory_usage", "utilization", "temperature", "power_draw", "clock_rate"}

device = CpuDevice()
