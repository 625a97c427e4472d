"""Running a program written for BMTrain as `__main__`, in this process and in those that it starts itself.

A process that multiprocessing starts by spawn or forkserver imports the program's main module anew. It finds this
module named as that (see `main_module`), so that BMTrain is set up there, too, before the program is read.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from fm9g import runtime
from fm9g.environment import check_ranks
from fm9g.errors import UserError
from fm9g.runtime.backend import CHOSEN
from fm9g.runtime.imports import is_found, retarget_program
from fm9g.runtime.retarget import retargeted_code

SCRIPT = "FM9G_SCRIPT"  # tells the processes that the program starts what to read
NAME = "fm9g.runtime.program"


def prepare(script: Path) -> None:
    """On the cpu backend, rewrite what the program imports from now on."""
    if not runtime.backend.on_cuda:
        retarget_program(script.parent)


def compiled(script: Path) -> CodeType:
    """The script's code, for the backend at hand."""
    source = script.read_bytes()
    if b"\0" in source:
        raise UserError(f"{script}: not Python source, it holds null bytes")
    if runtime.backend.on_cuda:
        return compile(source, str(script), "exec", dont_inherit=True)
    return retargeted_code(source, str(script))


def names(script: Path) -> dict[str, Any]:
    """The names that a main module has before its first line."""
    return {"__file__": str(script), "__package__": ""}


def main_module(script: Path) -> ModuleType:
    """An empty `__main__` for the script. Its spec is what multiprocessing tells its processes to import."""
    module = ModuleType("__main__")
    module.__spec__ = importlib.machinery.ModuleSpec(NAME, None, origin=str(script))
    module.__dict__.update(names(script))
    return module


def run(script: Path) -> None:
    """Run `script` as `__main__`."""
    check_ranks()
    os.environ[SCRIPT] = str(script)
    os.environ[CHOSEN] = runtime.backend.name
    if not is_found("fm9g"):  # it was, by the folder that the program's has replaced in sys.path
        sys.path.append(str(Path(__file__).parents[2]))
    prepare(script)
    module = main_module(script)
    sys.modules["__main__"] = module
    exec(compiled(script), module.__dict__)


def run_again(namespace: dict[str, Any]) -> None:
    """Read the program in `namespace`, the main module of a process that multiprocessing has started."""
    script = Path(os.environ[SCRIPT])
    prepare(script)
    code = compiled(script)
    kept = {name: namespace[name] for name in ("__name__", "__builtins__", "__spec__")}
    namespace.clear()
    namespace.update(kept | names(script))
    exec(code, namespace)


if __name__ == "__mp_main__":
    from fm9g.runtime import program  # this module is imported twice: here it becomes the user's

    program.run_again(globals())
