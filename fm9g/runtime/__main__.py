"""Run a program written for BMTrain on the backend at hand: torchrun … -m fm9g.runtime SCRIPT ARGS.

On the cpu backend the program and the modules that lie beside it have their CUDA names rewritten, as BMTrain's own
modules have.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType

from fm9g import runtime
from fm9g.errors import UserError, run_command
from fm9g.runtime.cpu import device
from fm9g.runtime.retarget import DEVICE_NAME, retarget_imports, retargeted_code

USAGE = "usage: torchrun [...] -m fm9g.runtime SCRIPT [ARGS ...]   (or python -m fm9g.runtime, for one rank)"


def run_retargeted(script: Path) -> None:
    """Run `script` as __main__ with its CUDA names, and those of modules below its folder, rewritten."""
    package = Path(__file__).resolve().parents[1]
    retarget_imports(lambda name, path: _is_users(path.resolve(), script.parent, package))
    module = ModuleType("__main__")
    module.__file__ = str(script)
    setattr(module, DEVICE_NAME, device)
    sys.modules["__main__"] = module
    exec(retargeted_code(script.read_bytes(), str(script)), module.__dict__)


def _is_users(path: Path, folder: Path, package: Path) -> bool:
    inside = path.is_relative_to(folder) and not path.is_relative_to(package)
    return inside and "site-packages" not in path.parts


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    script = Path(sys.argv[1]).resolve()
    if not script.is_file():
        raise UserError(f"{script}: no such script\n{USAGE}")
    sys.argv = [str(script), *sys.argv[2:]]
    sys.path[0] = str(script.parent)
    try:
        if runtime.backend.on_cuda:
            runpy.run_path(str(script), run_name="__main__")
        else:
            run_retargeted(script)
    except SystemExit as end:
        if end.code not in (None, 0):
            runtime.fail(f"exit status {end.code}")
        raise
    except UserError as error:
        runtime.fail(str(error))
        raise
    except OSError:  # the program's own: its author wants to see where
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
