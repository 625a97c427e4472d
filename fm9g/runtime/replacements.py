"""The parts of BMTrain 1.0.1 that are replaced when it is imported: all of them, and why each.

The wheel's own files are never touched.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from fm9g.runtime import adam, collectives, gradients, kernels, process
from fm9g.runtime.backend import Backend

ZERO_CONTEXT = "fm9g.runtime.zero_context"
MODULES: dict[str, tuple[ModuleType, str]] = {
    "bmtrain.nccl": (collectives, "calls the NCCL that the extension was linked with; here torch.distributed"),
    "bmtrain.loss._function": (kernels, "calls the extension's CUDA kernels by address; here torch operations"),
    "bmtrain.optim._function": (kernels, "the same; Adam itself is replaced below"),
}
"""Modules that need BMTrain's extension: replaced on the portable and cpu backends."""


@dataclass(frozen=True)
class Replacement:
    """`bmtrain.<where>` becomes `make(original)`."""

    where: str
    make: Callable[[Any], Any]
    why: str


FUNCTIONS = (
    Replacement(
        "init.dist",
        lambda dist: process.Rendezvous(dist),
        "a mismatched, missing or dead rank would leave the others waiting for half an hour or forever",
    ),
    Replacement(
        "optim.adam.AdamOptimizer.step",
        lambda original: adam.adam_step,
        "float32 is L2-coupled; fp16 keeps scaled moments, partly rounded to fp16",
    ),
    Replacement(
        "optim.adam.AdamOptimizer._on_justify_scale",
        lambda original: adam.no_rescaling,
        "would rescale moments that are no longer scaled",
    ),
    Replacement(
        "optim.adam.AdamOptimizer.load_state_dict",
        adam.load_state_dict,
        "rounds the first moment of fp16 parameters to fp16",
    ),
    Replacement(
        "optim.adam_offload.AdamOffloadOptimizer.step",
        lambda original: adam.offload_step,
        "float32 is L2-coupled; `maximize` reads the last group's setting for all",
    ),
    Replacement(
        "optim.optim_manager.OptimManager.clip_grad_norm",
        lambda original: gradients.clip_grad_norm,
        "starts five kernels for every parameter while the GPU waits; the largest of nothing is an error",
    ),
    Replacement(
        "optim.optim_manager.OptimManager.zero_grad",
        lambda original: gradients.zero_grad,
        "starts a kernel for every parameter",
    ),
    Replacement(
        "zero_context.ZeroContext.enter",
        lambda original: _zero_context().enter,
        "makes two tensors for every parameter where a view does, while the GPU waits; copies what a rank has whole",
    ),
    Replacement(
        "zero_context.ZeroContext.exit",
        lambda original: _zero_context().exit,
        "the same",
    ),
    Replacement(
        "store.torch",
        lambda original: _SafeTorch(original),
        "bmt.load unpickles whatever the file holds; weights_only refuses code",
    ),
)
"""Functions that are wrong, unsafe or slow on every backend."""


def _zero_context() -> ModuleType:
    """Our module, imported once BMTrain is there; on the cpu backend it is rewritten, too."""
    return importlib.import_module(ZERO_CONTEXT)


class _SafeTorch:
    """The torch module as bmtrain.store sees it: `load` reads tensors only."""

    def __init__(self, original: ModuleType) -> None:
        self._original = original
        self.load = functools.partial(original.load, weights_only=True, map_location="cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def replace_modules() -> None:
    """Before BMTrain is imported: stand in for the modules that need its extension."""
    extension = ModuleType("bmtrain.C", "Stands for BMTrain's extension, whose callers are all replaced.")
    extension.is_bf16_supported = lambda: True  # type: ignore[attr-defined]
    sys.modules["bmtrain.C"] = extension
    for name, (module, _) in MODULES.items():
        sys.modules[name] = module


def replace_functions(bmtrain: ModuleType) -> None:
    """After BMTrain is imported: put the functions of FUNCTIONS in place."""
    for replacement in FUNCTIONS:
        *path, name = replacement.where.split(".")
        holder = functools.reduce(getattr, path, bmtrain)
        setattr(holder, name, replacement.make(getattr(holder, name)))


def import_bmtrain(backend: Backend) -> ModuleType:
    """Import BMTrain for `backend`, everything it needs in place."""
    if "bmtrain" in sys.modules:
        raise ImportError("bmtrain was imported before fm9g.runtime, which decides how it is loaded")
    if backend.name != "native":
        replace_modules()
    if backend.name == "cpu":
        from fm9g.runtime.imports import retarget_imports

        retarget_imports(lambda name, path: name in ("bmtrain", ZERO_CONTEXT) or name.startswith("bmtrain."))
    # BMTrain speaks of storages throughout; the warning is for its authors
    warnings.filterwarnings("ignore", message="TypedStorage is deprecated", category=UserWarning)
    import bmtrain

    assert torch is not None
    replace_functions(bmtrain)
    return bmtrain
