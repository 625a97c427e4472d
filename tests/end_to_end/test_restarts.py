"""max_restarts: ranks are started anew by their launcher, and go on from what the run has saved."""

import textwrap

import pytest

from tests.support.apps import run_app, start_program
from tests.support.outputs import Output
from tests.support.ranks import finish
from tests.support.runs_here import APP

# Once rank 1 has read step 4, it does what is said there.
PROGRAM = """
    import os, runpy, signal, sys
    from fm9g import runtime
    from fm9g.errors import UserError
    from fm9g.training.learner import Learner

    learn = Learner.step

    def failing(learner, batch, *arguments):
        if batch.step == 3 and runtime.rank() == 1 and {when}:
            {event}
        return learn(learner, batch, *arguments)

    Learner.step = failing
    runpy.run_path("{app}/pretrain.py", run_name="__main__")
"""


def run_failing(place, folder, event, when="True", **options):
    program = folder / "failing.py"
    program.write_text(textwrap.dedent(PROGRAM).format(event=event, when=when, app=APP))
    return finish(start_program(program, place.words(folder / "out", **options), folder), 150)


@pytest.fixture
def options():
    return {"n_gpus": 2, "grad_accum": 1, "train_iters": 6, "save_iters": 2}


def test_ranks_that_are_started_anew_go_on_from_what_they_have_saved(place, options, tmp_path):
    ended = run_failing(
        place,
        tmp_path,
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'",
        **options,
        max_restarts=1,
    )
    assert ended.returncode == 0, ended.output
    assert "at step 2" in ended.output
    whole = run_app(place.words(tmp_path / "whole", **options), tmp_path)
    assert whole.returncode == 0, whole.output
    assert Output(tmp_path / "out").learned() == Output(tmp_path / "whole").learned()


def test_what_would_fail_again_is_not_tried_again(place, options, tmp_path):
    ended = run_failing(place, tmp_path, "raise UserError('a bad setting')", **options, max_restarts=3)
    assert ended.returncode == 1
    assert "not started anew: a bad setting" in ended.output
    assert "at step 2" not in ended.output
