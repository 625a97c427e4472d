"""Which modules of a program written for CUDA are rewritten where there is no GPU, and how they are imported.

BMTrain's own; the program's, below its script's folder; every package that imports bmtrain, wherever it lies; and
the packages and modules that FM9G_RETARGET names.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import re
import runpy
import sys
import zipimport
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch

from fm9g.runtime.devices import DEVICE_NAME
from fm9g.runtime.retarget import retargeted_code

VARIABLE = "FM9G_RETARGET"
_OWN = Path(__file__).resolve().parents[1]
_IMPORTS_BMTRAIN = re.compile(rb"^[ \t]*(import|from)[ \t][^#\n]*\bbmtrain\b", re.MULTILINE)
# large packages that are known not to use BMTrain: reading them would take a second each
_NEVER = {"fm9g", "torch", "torchvision", "torchaudio", "functorch", "triton", "transformers", "tokenizers", "numpy"}
_NEVER |= {"scipy", "pandas", "sklearn", "sympy", "matplotlib", "pyarrow", "tensorboard", "tensorflow", "jax"}

_RUN_PATH = "<run_path>"  # what runpy calls a file that it runs


class RetargetLoader(importlib.machinery.SourceFileLoader):
    """Loads a module from rewritten source, past any bytecode cached from the original."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return retargeted_code(self.get_data(path), path)


class RetargetZipLoader(zipimport.zipimporter):
    """The same for a module in a zip file."""

    def get_code(self, fullname: str) -> CodeType:
        return retargeted_code(self.get_source(fullname) or "", self.get_filename(fullname))


class RetargetFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that `wanted(name, file)` accepts and has them loaded by RetargetLoader."""

    def __init__(self, wanted: Callable[[str, Path], bool]) -> None:
        self._wanted = wanted

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = _found_by_others(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        loader, in_zip = spec.loader, type(spec.loader) is zipimport.zipimporter
        if not (in_zip or type(loader) is importlib.machinery.SourceFileLoader):
            return None
        if not self._wanted(fullname, Path(spec.origin)):
            return None
        if isinstance(loader, zipimport.zipimporter):
            spec.loader = RetargetZipLoader(os.path.join(loader.archive, loader.prefix))
        else:
            spec.loader = RetargetLoader(fullname, spec.origin)
        return spec


def _found_by_others(
    name: str, path: Sequence[str] | None, target: ModuleType | None = None
) -> importlib.machinery.ModuleSpec | None:
    """The module's spec as Python would have it: an editable installation has a finder of its own."""
    for finder in sys.meta_path:
        if not isinstance(finder, RetargetFinder) and (find := getattr(finder, "find_spec", None)) is not None:
            spec: importlib.machinery.ModuleSpec | None = find(name, path, target)
            if spec is not None:
                return spec
    return None


def is_found(name: str) -> bool:
    """Whether a new process with this one's sys.path would find the module."""
    return _found_by_others(name, None) is not None


def retarget_imports(wanted: Callable[[str, Path], bool]) -> None:
    """From now on, rewrite the modules for which `wanted(name, file)` holds as they are imported."""
    sys.meta_path.insert(0, RetargetFinder(wanted))


def retarget_program(folder: Path) -> None:
    """From now on, rewrite what belongs to the program in `folder`; a module left out says how to name it."""
    is_named = _names_modules(os.environ.get(VARIABLE, ""))

    def wanted(name: str, path: Path) -> bool:
        if is_named(name):
            return True
        package = name.partition(".")[0]
        return package not in _NEVER and (_lies_in(path, folder) or uses_bmtrain(package))

    retarget_imports(wanted)
    _retarget_files(wanted)
    _explain_missing_cuda()


def _names_modules(text: str) -> Callable[[str], bool]:
    """Whether FM9G_RETARGET=text names a module, or a package that holds it."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    return lambda module: any(f"{module}.".startswith(f"{name}.") for name in named)


def _retarget_files(wanted: Callable[[str, Path], bool]) -> None:
    """Rewrite, too, what the program loads by a file's path: by a SourceFileLoader, past all finders, or by runpy."""
    loader_class = importlib.machinery.SourceFileLoader
    original = loader_class.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        if type(self) is loader_class and wanted(fullname, Path(path).absolute()):
            return retargeted_code(self.get_data(path), path)
        return original(self, fullname)

    def compile_file(source: Any, filename: Any, mode: str) -> CodeType:
        if wanted(_RUN_PATH, Path(os.fsdecode(filename)).absolute()):
            return retargeted_code(source, os.fsdecode(filename))
        return compile(source, filename, mode)

    loader_class.get_code = get_code  # type: ignore[assignment, method-assign]
    runpy.compile = compile_file  # type: ignore[attr-defined]  # in place of the builtin, which run_path calls


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a module is one of the program's own files, or a link among them."""
    places = [place for place in (path, path.resolve()) if place.is_relative_to(folder)]
    inside = bool(places) and "site-packages" not in places[0].relative_to(folder).parts
    return inside and not path.resolve().is_relative_to(_OWN)


@functools.cache
def uses_bmtrain(package: str) -> bool:
    """Whether any source file of a top-level package, or module, imports bmtrain."""
    if package in sys.stdlib_module_names:
        return False
    spec = _found_by_others(package, None)
    return spec is not None and any(_IMPORTS_BMTRAIN.search(file.read_bytes()) for file in _sources(spec))


def _sources(spec: importlib.machinery.ModuleSpec) -> Iterator[Path]:
    if spec.submodule_search_locations is None:
        if spec.origin is not None and spec.origin.endswith(".py"):
            yield Path(spec.origin)
        return
    for place in spec.submodule_search_locations:  # of a namespace package there are several
        for folder, _, files in os.walk(place):
            paths = (Path(folder, name) for name in files if name.endswith(".py"))
            yield from (path for path in paths if path.is_file())  # an editor's lock is a link to nothing


def _explain_missing_cuda() -> None:
    """Have torch's error for a missing GPU name the module that asked for one."""
    original = torch.cuda._lazy_init

    @functools.wraps(original)
    def lazy_init() -> None:
        try:
            original()
        except (AssertionError, RuntimeError) as error:
            raise type(error)(f"{error}\n{_advice(_asking_module(sys._getframe(1)))}") from None

    torch.cuda._lazy_init = lazy_init


def _asking_module(frame: FrameType | None) -> FrameType | None:
    """The innermost frame outside torch and this package."""
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("torch", "fm9g"):
        frame = frame.f_back
    return frame


def _advice(frame: FrameType | None) -> str:
    if frame is None:
        return "fm9g.runtime: there is no GPU here"
    name, place = str(frame.f_globals.get("__name__")), f"{frame.f_code.co_filename}, line {frame.f_lineno}"
    if DEVICE_NAME in frame.f_globals:
        return f"fm9g.runtime: there is no GPU here, and this way to ask for one is not rewritten: {place}"
    said = (
        f"fm9g.runtime: there is no GPU here, and the module {name} ({place}), which asks for one, is not rewritten "
        "for the CPU"
    )
    set_now, package = os.environ.get(VARIABLE, ""), name.partition(".")[0]
    if _names_modules(set_now)(name) or not _can_be_named(frame, package):
        return f"{said}: import it from a .py file, below the program's folder or named in {VARIABLE}"
    return f"{said}: set {VARIABLE}={f'{set_now},' if set_now else ''}{package}"


def _can_be_named(frame: FrameType, package: str) -> bool:
    """Whether the asking module is read by its name: what runpy or exec reads has none."""
    loader = getattr(frame.f_globals.get("__spec__"), "loader", None)
    return is_found(package) or type(loader) is importlib.machinery.SourceFileLoader
