"""Runs of one rank in this process.

run = train_here(place, tmp_path, train_iters=3)
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.outputs import Output
from tests.support.places import Place
from tests.support.ranks import REPOSITORY, Finished

APP = REPOSITORY / "apps/fm9g_7b"


@dataclass(frozen=True)
class Ended(Output):
    """A run in this process that came to its end, and what it printed."""

    log: str = ""


def train_here(place: Place, output: Path, **changes: object) -> Ended:
    """A run of one rank in this process, from its command line to its end. UserErrors come as they are.

    It starts from the same random state as a process of its own would. Needs the fixture `single_rank`.
    """
    return run_words_here(place.words(output, **changes), output, str(changes.get("model_unique", "u")))


def refused_here(place: Place, output: Path, **changes: object) -> str:
    """What such a run is refused for."""
    import pytest

    from fm9g.errors import UserError

    with pytest.raises(UserError) as error:
        train_here(place, output, **changes)
    return str(error.value)


def refused_early(place: Place, output: Path, **changes: object) -> str:
    """What such a run is refused for before any process of it starts, by a dry run and by the launcher alike."""
    import pytest

    from fm9g.commands.train import check
    from fm9g.errors import UserError
    from fm9g.training.dry_run import report
    from fm9g.training.inputs import open_inputs
    from fm9g.training.settings import read_settings

    settings = read_settings(place.words(output, **changes))
    with pytest.raises(UserError) as dry:
        report(open_inputs(settings, APP))
    with pytest.raises(UserError) as launched:
        check(settings, APP)
    assert str(dry.value) == str(launched.value)
    return str(dry.value)


def run_words_here(words: list[str], output: Path, name: str = "u") -> Ended:
    """Like train_here, with the words of a whole command line."""
    import torch

    from fm9g.errors import UserError
    from fm9g.training.inputs import open_inputs
    from fm9g.training.run import go
    from fm9g.training.settings import read_settings

    torch.set_num_threads(1)  # as ranks have; several threads on a busy machine wait for each other
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            inputs = open_inputs(read_settings(words), APP)
            _seed(inputs.settings.seed)
            go(inputs)
    except UserError as error:
        raise error.with_traceback(None) from None  # its frames would keep the run's lock
    return Ended(output, name, printed.getvalue())


def command_here(words: Sequence[str], table: str = "") -> Finished:
    """What pretrain.py would do in a process of its own with one rank: its exit status and its stderr."""
    from fm9g import runtime, signals
    from fm9g.errors import run_command

    main = load_program("pretrain").main
    errors, printed = io.StringIO(), io.StringIO()
    before, initialize, listen = sys.argv, runtime.initialize, signals.listen
    sys.argv, runtime.initialize, status = ["pretrain.py", *words], _seed, 0
    signals.listen = lambda at_second: None  # pytest has handlers of its own
    os.environ["FM9G_ARGS_TABLE"] = table
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            run_command(main)
    except SystemExit as exit:
        status = int(exit.code or 0)
    finally:
        sys.argv, runtime.initialize, signals.listen = before, initialize, listen
        del os.environ["FM9G_ARGS_TABLE"]
    gc.collect()  # a run that failed is in a cycle with its error, and holds its lock
    return Finished(status, errors.getvalue() if status else printed.getvalue())


def load_program(name: str) -> Any:
    """apps/fm9g_7b/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(f"app_{name}", APP / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def training_here(place: Place, output: Path, **changes: object) -> Iterator[Any]:
    """A fm9g.training.loop.Loop of this process before its first step; its log is not shown."""
    import torch

    from fm9g.training.inputs import open_inputs
    from fm9g.training.run import open_loop
    from fm9g.training.settings import read_settings

    torch.set_num_threads(1)
    settings = read_settings(place.words(output, **changes))
    _seed(settings.seed)
    with contextlib.redirect_stdout(io.StringIO()):
        loop = open_loop(open_inputs(settings, APP))
        try:
            yield loop
        finally:
            loop.close()


def _seed(seed: int = 0, tp_size: int = 1, collective_seconds: float = 0) -> None:
    import numpy as np
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
