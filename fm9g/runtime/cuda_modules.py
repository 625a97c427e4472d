"""What the modules of `torch.cuda` are where there is no GPU: amp, nvtx, profiler, nccl, tunable and the CUDA runtime.

What a CPU cannot answer is an error that names it, raised when it is called.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.cuda.nccl
import torch.cuda.tunable


def nothing(*args: Any, **kwargs: Any) -> None:
    """What has nothing to do on a CPU."""


def missing(name: str) -> Callable[..., Any]:
    """A function that says that `torch.cuda.<name>` has no meaning on a CPU."""

    def on_call(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"torch.cuda.{name} needs a GPU, and there is none here: leave the call out where "
            f'torch.cuda.get_device_name() is "CPU"'
        )

    return on_call


def _missing_in(module: ModuleType, name: str) -> Any:
    """The same for a function of a module of torch.cuda; its constants as they are."""
    value = getattr(module, name)
    return missing(f"{module.__name__.removeprefix('torch.cuda.')}.{name}") if callable(value) else value


class _Autocast(torch.autocast):
    """`torch.cuda.amp.autocast`, on the CPU in the same type."""

    def __init__(self, enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True) -> None:
        super().__init__("cpu", dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


class _GradScaler(torch.amp.GradScaler):
    """`torch.cuda.amp.GradScaler`, on the CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


class _Amp:
    """`torch.cuda.amp`, and each of its own modules, whose names are all different."""

    autocast = _Autocast
    GradScaler = _GradScaler
    custom_fwd = staticmethod(functools.partial(torch.amp.custom_fwd, device_type="cpu"))
    custom_bwd = staticmethod(functools.partial(torch.amp.custom_bwd, device_type="cpu"))

    @staticmethod
    def amp_definitely_not_available() -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return self if name in ("autocast_mode", "grad_scaler", "common") else getattr(torch.cuda.amp, name)


class _Nvtx:
    """`torch.cuda.nvtx`: ranges that no profiler sees."""

    mark = range_start = range_end = range_push = range_pop = staticmethod(nothing)

    @staticmethod
    @contextlib.contextmanager
    def range(message: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    annotate = range  # of the package nvtx, which programs spell alike


class _Nccl:
    """`torch.cuda.nccl`: gloo stands in for it, below torch.distributed only."""

    @staticmethod
    def version() -> tuple[int, int, int]:
        """(0, 0, 0): below any version that a program asks for."""
        return (0, 0, 0)

    @staticmethod
    def is_available(tensors: Any) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return _missing_in(torch.cuda.nccl, name)


class _Tunable:
    """`torch.cuda.tunable`: there are no kernels to choose from."""

    enable = tuning_enable = record_untuned_enable = staticmethod(nothing)

    @staticmethod
    def is_enabled() -> bool:
        return False

    tuning_is_enabled = record_untuned_is_enabled = is_enabled

    def __getattr__(self, name: str) -> Any:
        return _missing_in(torch.cuda.tunable, name)


class Cudart:
    """What `torch.cuda.cudart()` gives: the CUDA runtime's functions, which answer with an error code, 0 for none."""

    cudaError = SimpleNamespace(success=0)

    @staticmethod
    def cudaProfilerStart(*args: Any) -> int:
        return 0

    cudaProfilerStop = cudaHostRegister = cudaHostUnregister = cudaProfilerStart

    def __getattr__(self, name: str) -> Any:
        return missing(f"cudart().{name}")


amp = _Amp()
nvtx = _Nvtx()
nccl = _Nccl()
tunable = _Tunable()
cudart = Cudart()
profiler = SimpleNamespace(start=nothing, stop=nothing, profile=contextlib.nullcontext)
