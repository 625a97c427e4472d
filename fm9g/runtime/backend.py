"""Which of the three backends BMTrain runs on, and why."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from fm9g.errors import UserError, closest

BACKENDS = ("native", "portable", "cpu")
CHOSEN = "FM9G_CHOSEN_BACKEND"  # set by a running program for the processes that it starts


@dataclass(frozen=True)
class Backend:
    """A backend's name and the reason it was chosen, for the one line in the log."""

    name: str
    reason: str

    @property
    def on_cuda(self) -> bool:
        return self.name != "cpu"


def bmtrain_folder() -> Path:
    """The folder of the installed BMTrain package, found without importing it."""
    spec = importlib.machinery.PathFinder.find_spec("bmtrain")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "BMTrain 1.0.1 is not installed in this Python environment: run `make env`, "
            "or `python tools/install_bmtrain.py` (a plain `pip install bmtrain` would bring a second NCCL)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def load_extension(folder: Path) -> ModuleType:
    """Load BMTrain's compiled extension as `bmtrain.C`; ImportError says why it cannot be had."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"C{suffix}"
        if path.exists():
            spec = importlib.util.spec_from_file_location("bmtrain.C", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ImportError(f"no extension for Python {sys.version_info[0]}.{sys.version_info[1]} in {folder}")


def probe_kernels(extension: ModuleType) -> None:
    """Run one of the extension's kernels; a wheel built for other GPUs imports but cannot compute."""
    values = torch.tensor([1.0, float("inf")], dtype=torch.float16, device="cuda")
    scratch = torch.zeros(1024, dtype=torch.uint8, device="cuda")
    found = torch.zeros(1, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    extension.has_nan_inf_fp16_launcher(2, values.data_ptr(), scratch.data_ptr(), found.data_ptr(), stream)
    torch.cuda.synchronize()
    if found.item() != 1:
        raise ImportError("its kernels give wrong results on this GPU")


def _of_parent() -> str:
    """The backend of the program, in a process that its multiprocessing started by spawn or forkserver; else ""."""
    words = sys.orig_argv
    started = "--multiprocessing-fork" in words or any(word.startswith("from multiprocessing.fork") for word in words)
    return os.environ.get(CHOSEN, "") if started else ""


def choose(
    cuda_available: bool | None = None,
    load: Callable[[Path], ModuleType] = load_extension,
    probe: Callable[[ModuleType], None] = probe_kernels,
) -> Backend:
    """Choose the backend: FM9G_BACKEND if set, else the fastest that works here.

    Native leaves the loaded extension in `sys.modules`, where BMTrain will find it.
    """
    forced = os.environ.get("FM9G_BACKEND", "")
    if forced and forced not in BACKENDS:
        raise UserError(f"FM9G_BACKEND={forced!r}: use one of {', '.join(BACKENDS)}{closest(forced, BACKENDS)}")
    inherited = _of_parent()
    if inherited in ("cpu", "portable"):
        return Backend(inherited, "as the process that started this one")
    if inherited == "native":
        cuda_available, probe = True, lambda extension: None  # a kernel would take memory of the GPU in every process
    if forced == "cpu":
        return Backend("cpu", "FM9G_BACKEND")
    if cuda_available is None:
        cuda_available = torch.cuda.is_available()
    if not cuda_available:
        if forced:
            raise UserError(f"FM9G_BACKEND={forced} needs a CUDA GPU, and torch {torch.__version__} sees none")
        return Backend("cpu", "no CUDA GPU")
    if forced == "portable":
        return Backend("portable", "FM9G_BACKEND")
    try:
        extension = load(bmtrain_folder())
        probe(extension)
    except (ImportError, OSError, RuntimeError) as error:
        if forced:
            raise UserError(f"FM9G_BACKEND=native, but BMTrain's extension does not work here: {error}") from error
        return Backend("portable", f"BMTrain's extension does not work here: {error}")
    sys.modules["bmtrain.C"] = extension
    return Backend("native", (forced and "FM9G_BACKEND") or "BMTrain's extension loads")
