"""What `torch.cuda` and CUDA tensors are to BMTrain's own modules where there is no GPU.

Everything on a CPU happens in program order, so streams and events have nothing left to do.
Names that are not here fall through to the real `torch.cuda`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import torch


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


class CpuDevice:
    """Stands where BMTrain wrote `torch.cuda`, and holds what replaces its methods on tensors."""

    Stream = Stream
    Event = Event
    FloatTensor = torch.FloatTensor
    DoubleTensor = torch.DoubleTensor
    HalfTensor = torch.HalfTensor
    BFloat16Tensor = torch.BFloat16Tensor
    LongTensor = torch.LongTensor
    IntTensor = torch.IntTensor
    ByteTensor = torch.ByteTensor
    FloatStorage = torch.FloatStorage
    DoubleStorage = torch.DoubleStorage
    HalfStorage = torch.HalfStorage
    BFloat16Storage = torch.BFloat16Storage
    CharStorage = torch.CharStorage
    ByteStorage = torch.ByteStorage
    ShortStorage = torch.ShortStorage
    IntStorage = torch.IntStorage

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    # what stands for methods and attributes of tensors

    @staticmethod
    def to_device(value: Any, *args: Any, **kwargs: Any) -> Any:
        """`value.cuda()`: a copy for a tensor, since writing to the original must not reach it."""
        return value.clone() if isinstance(value, torch.Tensor) else value

    @staticmethod
    def is_on_device(value: Any) -> bool:
        """`value.is_cuda`."""
        return torch.device(value.device).type == "cpu"

    @staticmethod
    def record_stream(value: Any, stream: Any) -> None:
        """`value.record_stream(stream)`."""

    @staticmethod
    def pin_memory(value: Any) -> Any:
        """`value.pin_memory()`: a copy, as pinning makes one."""
        return value.clone()

    # what stands for functions of torch.cuda

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    @staticmethod
    def current_device() -> int:
        return int(os.environ.get("LOCAL_RANK", "0"))

    @staticmethod
    def set_device(device: Any) -> None: ...

    @staticmethod
    def synchronize(device: Any = None) -> None: ...

    @staticmethod
    def empty_cache() -> None: ...

    @staticmethod
    def reset_peak_memory_stats(device: Any = None) -> None: ...

    @staticmethod
    def current_stream(device: Any = None) -> Any:
        return _default_stream

    default_stream = current_stream

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: Any) -> Iterator[None]:
        yield

    @staticmethod
    def memory_allocated(device: Any = None) -> int:
        """Bytes of resident memory: a CPU keeps no count of its own for tensors."""
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    memory_reserved = memory_allocated

    @staticmethod
    def max_memory_allocated(device: Any = None) -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # brought up to date now and then only
        return max(peak, CpuDevice.memory_allocated())

    max_memory_reserved = max_memory_allocated

    @staticmethod
    def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
        return f"resident memory: {CpuDevice.memory_allocated()} bytes, peak {CpuDevice.max_memory_allocated()} bytes"

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def fork_rng(devices: Any = None, enabled: bool = True, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
        """`torch.random.fork_rng` over the one generator there is."""
        return torch.random.fork_rng(devices=[], enabled=enabled)


device = CpuDevice()
