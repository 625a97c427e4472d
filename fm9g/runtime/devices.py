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
from types import FunctionType, MethodDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

DEVICE_NAME = "__fm9g_device__"  # what rewritten modules call the CpuDevice by
DEVICE_KEYWORDS = {"device", "map_location", "device_type", "device_map", "output_device", "device_id"}
KEYWORDS = DEVICE_KEYWORDS | {"pin_memory"}
_CUDA = re.compile(r"cuda(:\d+)?")
_CPU = torch.device("cpu")
_ASKED_CPU = torch.device("cpu")  # a program's own: equal to what stands for a GPU, yet not the same object
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
    if module := getattr(implementation, "__module__", None):
        return str(module)
    owner = type(getattr(implementation, "__self__", None))  # of a method of a class that is written in C
    name = getattr(implementation, "__name__", "")
    written_in_c = (place for place in owner.__mro__ if isinstance(vars(place).get(name), MethodDescriptorType))
    return str(getattr(implementation, "__objclass__", next(written_in_c, owner)).__module__)


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


def _stands_for_gpu(value: Any) -> bool:
    """Whether a device is the CPU in a GPU's place. A tensor's device does not tell what the program asked for."""
    return isinstance(value, torch.device) and value.type == "cpu" and value is not _ASKED_CPU


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
        if first is _ASKED_CPU or (isinstance(first, str) and first.partition(":")[0] == "cpu"):
            return _ASKED_CPU
        return _CPU if resolve(first, True) in ("cpu", _CPU) else torch.device(*args, **kwargs)

    @staticmethod
    def load(f: Any, map_location: Any = "cpu", *args: Any, **kwargs: Any) -> Any:
        """`torch.load`: what was saved from a GPU, too, has its place on the CPU."""
        place = "cpu" if map_location is None else resolve(map_location, True)
        return torch.load(f, place, *args, **kwargs)

    @staticmethod
    def to(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`value.to(…)`, of a tensor, a module or what else has one; `Tensor.to(x, …)`, too."""
        if is_rewritten(value.to):
            return value.to(*args, **kwargs)
        on_torch, first = _takes_devices(value.to), 1 if isinstance(value, type) else 0
        places = [resolve(argument, on_torch and index == first) for index, argument in enumerate(args)]
        return value.to(*places, **{name: resolve(given, name == "device") for name, given in kwargs.items()})

    @staticmethod
    def to_device(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`value.cuda()` or `Tensor.cuda(x)`: a copy of a tensor, since writing to the original must not reach it."""
        if isinstance(value, ModuleType) or is_rewritten(value.cuda):
            return value.cuda(*args, **kwargs)
        if isinstance(value, type):
            value = args[0]
        elif isinstance(value, super):
            value = getattr(value, "__self__")  # noqa: B009
        return value.clone() if isinstance(value, Tensor) else value

    def cuda_of(self, value: Any, /, *default: Any) -> Any:
        """`value.cuda` that is not called there: of torch by another name, a method, or the program's own."""
        if value is torch:
            return self
        found = getattr(value, "cuda", *default)
        owner = value if isinstance(value, type) else type(value)
        moves = issubclass(owner, Tensor | nn.Module) and callable(found)
        return functools.partial(self.to_device, value) if moves else found

    @staticmethod
    def is_on_device(value: Any, /, *default: Any) -> Any:
        """`value.is_cuda`: of what torch, or a library on it, keeps on a device; else the program's own attribute."""
        if isinstance(value, Tensor):
            return value.is_cpu
        if isinstance(value, nn.utils.rnn.PackedSequence):
            return value.data.is_cpu
        if _takes_devices(type(value)) and isinstance(getattr(value, "device", None), torch.device):
            return value.device.type == "cpu"
        return getattr(value, "is_cuda", *default)

    @staticmethod
    def type_of(value: Any, /, *default: Any) -> Any:
        """`value.type`, which for the device at hand is what the program calls it."""
        return "cuda" if _stands_for_gpu(value) else getattr(value, "type", *default)

    @staticmethod
    def text_of(value: Any) -> str:
        """`str(value)`, which for the device at hand is what the program calls it."""
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if _stands_for_gpu(value) else str(value)

    @staticmethod
    def record_stream(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`value.record_stream(stream)`: nothing for a tensor."""
        return value.record_stream(*args, **kwargs) if is_rewritten(value.record_stream) else None

    @staticmethod
    def pin_memory(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`value.pin_memory()`: a copy for a tensor, as pinning makes one."""
        if not _takes_devices(value.pin_memory):
            return value.pin_memory(*args, **kwargs)
        return value.clone() if isinstance(value, Tensor) else value
