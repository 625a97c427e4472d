"""Devices as a CUDA program names them, on a machine without a GPU.

A program's own strings and numbers stay what they are: `"cuda"`, `"cuda:1"`, `0` and `torch.device("cuda")` become
the CPU where they reach torch, or a library that is built on torch and was not rewritten (see retarget.py).
"""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import re
import sys
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

DEVICE_NAME = "__fm9g_device__"  # what rewritten modules call the CpuDevice by
DEVICE_KEYWORDS = {"device", "map_location", "device_type", "device_map", "output_device", "device_id"}
KEYWORDS = DEVICE_KEYWORDS | {"pin_memory"}
_CUDA = re.compile(r"cuda(:\d+)?")
_CPU = torch.device("cpu")
_built_on_torch = {"torch"}


def resolve(value: Any, number: bool = False) -> Any:
    """The CPU for the name of a CUDA device, and with `number` for a device's number; anything else as it is."""
    if isinstance(value, str):
        return "cpu" if _CUDA.fullmatch(value) else value
    if isinstance(value, torch.device):
        return _CPU if value.type == "cuda" else value
    if number and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return _CPU
    if number and isinstance(value, dict):  # a map_location or device_map
        return {resolve(key): resolve(entry, True) for key, entry in value.items()}
    return value


def _implementation(function: Any) -> Any:
    """The Python function that a call of `function` (a class, a method, a module, a partial) runs, if there is one."""
    if isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, nn.Module):
        function = type(function).forward
    elif isinstance(function, type):
        makers = (getattr(function, "__init__", None), function.__new__)
        function = next((maker for maker in makers if isinstance(maker, FunctionType)), function)
    return inspect.unwrap(getattr(function, "__func__", function))


def _module_of(implementation: Any) -> str:
    owner = getattr(implementation, "__self__", None)  # of a method of a class that is written in C
    return str(getattr(implementation, "__module__", None) or type(owner).__module__)


def is_rewritten(function: Any) -> bool:
    """Whether a call of `function` runs code of a module that was rewritten."""
    implementation = _implementation(function)
    if isinstance(implementation, FunctionType):
        return DEVICE_NAME in implementation.__globals__
    return DEVICE_NAME in getattr(sys.modules.get(_module_of(implementation)), "__dict__", {})


def _takes_devices(function: Any) -> bool:
    """Whether a device given to `function` gets to torch, with no rewritten code in between."""
    if is_rewritten(function):
        return False
    package = _module_of(_implementation(function)).partition(".")[0]
    if package in sys.stdlib_module_names or package in _built_on_torch:
        return package in _built_on_torch
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == package]
    found = any(getattr(module, "__dict__", {}).get("torch") is torch for module in modules)
    if found:
        _built_on_torch.add(package)
    return found


class Devices:
    """What rewritten modules call where a device may stand, and for methods and attributes of tensors."""

    @staticmethod
    def given(value: Any, function: Any, number: bool = False) -> Any:
        """The argument `value` of a call of `function`; with `number`, an integer there is a device's."""
        return resolve(value, number) if _takes_devices(function) else value

    @staticmethod
    def pinned(value: Any, function: Any) -> Any:
        """The argument `pin_memory=value` of a call of `function`."""
        return False if _takes_devices(function) else value

    @staticmethod
    def keywords(values: Any, function: Any) -> Any:
        """The arguments `**values` of a call of `function`."""
        if not any(name in KEYWORDS for name in values.keys()) or not _takes_devices(function):  # noqa: SIM118
            return values
        resolved = {name: resolve(values[name], name in DEVICE_KEYWORDS) for name in values.keys()}  # noqa: SIM118
        return {**resolved, "pin_memory": False} if "pin_memory" in resolved else resolved

    @staticmethod
    def call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`function(…)`, where the function is the result of another call."""
        if not _takes_devices(function):
            return function(*args, **kwargs)
        return function(*map(resolve, args), **Devices.keywords(kwargs, function))

    @staticmethod
    def new_device(*args: Any, **kwargs: Any) -> torch.device:
        """`torch.device(…)` of a name, a number, both, or a device."""
        first = args[0] if args else kwargs.get("type", kwargs.get("device"))
        return _CPU if resolve(first, True) in ("cpu", _CPU) else torch.device(*args, **kwargs)

    @staticmethod
    def load(file: Any, map_location: Any = "cpu", *args: Any, **kwargs: Any) -> Any:
        """`torch.load`: what was saved from a GPU, too, has its place on the CPU."""
        place = "cpu" if map_location is None else resolve(map_location, True)
        return torch.load(file, place, *args, **kwargs)

    @staticmethod
    def to(value: Any, *args: Any, **kwargs: Any) -> Any:
        """`value.to(…)`, of a tensor, a module or what else has one."""
        if is_rewritten(value.to):
            return value.to(*args, **kwargs)
        places = [resolve(argument, not index) for index, argument in enumerate(args)]
        return value.to(*places, **{name: resolve(given, name == "device") for name, given in kwargs.items()})

    @staticmethod
    def to_device(value: Any, *args: Any, **kwargs: Any) -> Any:
        """`value.cuda()`: a copy for a tensor, since writing to the original must not reach it."""
        if isinstance(value, Tensor):
            return value.clone()
        method = getattr(value, "cuda", None)
        if method is not None and is_rewritten(method):
            return method(*args, **kwargs)
        return getattr(value, "__self__", value) if isinstance(value, super) else value

    @staticmethod
    def is_on_device(value: Any) -> bool:
        """`value.is_cuda`."""
        if isinstance(value, Tensor | nn.utils.rnn.PackedSequence):
            return bool(value.is_cpu if isinstance(value, Tensor) else value.data.is_cpu)
        return torch.device(value.device).type == "cpu" if hasattr(value, "device") else value.is_cuda

    @staticmethod
    def type_of(value: Any) -> Any:
        """`value.type`, which for the device at hand is what the program calls it."""
        return "cuda" if isinstance(value, torch.device) and value.type == "cpu" else value.type

    @staticmethod
    def text_of(value: Any) -> str:
        """`str(value)`, which for the device at hand is what the program calls it."""
        here = isinstance(value, torch.device) and value.type == "cpu"
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if here else str(value)

    @staticmethod
    def record_stream(value: Any, *args: Any) -> None:
        """`value.record_stream(stream)`."""

    @staticmethod
    def pin_memory(value: Any, *args: Any) -> Any:
        """`value.pin_memory()`: a copy, as pinning makes one."""
        return value.clone() if isinstance(value, Tensor) else value.pin_memory()
