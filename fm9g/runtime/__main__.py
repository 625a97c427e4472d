"""Run a program written for BMTrain on the backend at hand: torchrun … -m fm9g.runtime SCRIPT ARGS.

On the cpu backend the program, the modules that lie beside it and the packages that import bmtrain have their CUDA
names rewritten, as BMTrain's own modules have.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fm9g.errors import UserError, run_command

USAGE = "usage: torchrun [...] -m fm9g.runtime SCRIPT [ARGS ...]   (or python -m fm9g.runtime, for one rank)"


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    script = Path(sys.argv[1]).expanduser().resolve()
    if not script.is_file():
        problem = "is a folder, not a script" if script.is_dir() else "no such script"
        raise UserError(f"{script}: {problem}\n{USAGE}")
    sys.argv = [str(script), *sys.argv[2:]]
    sys.path[0] = str(script.parent)
    from fm9g import runtime
    from fm9g.runtime.program import run

    try:
        run(script)
    except SystemExit as end:
        if end.code not in (None, 0):
            runtime.fail(f"exit status {end.code}")
        raise
    except UserError as error:
        runtime.fail(str(error))
        raise
    except SyntaxError as error:
        shown = error.with_traceback(None) if error.filename == str(script) else error
        sys.excepthook(type(shown), shown, shown.__traceback__)
        sys.exit(1)
    except OSError:  # the program's own: its author wants to see where
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
