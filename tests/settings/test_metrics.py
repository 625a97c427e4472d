"""What a run reports: defaults, what is refused, and what each setting does."""

import re
import sys

import pytest

from fm9g.training.metrics_settings import MetricsSettings
from tests.settings.helpers import defaults, iterations, refused, sees

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {"log_iters": 1, "inspect_iters": 100, "tensorboard_all_tasks": False, "plot_loss": False}


def test_defaults():
    assert defaults(MetricsSettings) == DEFAULTS


@sees("log_iters")
def test_log_iters_prints_every_so_many_and_the_last(plain, run):
    found = run(log_iters=3)
    assert re.findall(r"^iter (\d)/4 ", found.log, re.MULTILINE) == ["3", "4"]
    assert re.findall(r"^iter (\d)/4 ", plain.log, re.MULTILINE) == ["1", "2", "3", "4"]
    assert iterations(found) == [1, 2, 3, 4]
    assert [step for step, _ in found.events()["Loss/train"]] == [1, 2, 3, 4]


def test_a_run_says_what_it_does_before_its_first_step(plain):
    before = plain.log[: plain.log.index("iter 1/4")].splitlines()
    assert before[0].startswith("starting from step 0")
    assert before.index("opening 2 dataset(s), 170 records") < before.index("building the model")
    assert before[-1] == "step 1 of 4 begins"
    assert "mfu" not in plain.log  # there is none on a CPU


@sees("inspect_iters")
def test_inspect_iters_records_summaries_and_prints_none(plain, run):
    found = run(inspect_iters=2)
    recorded = found.events()["Parameters/lm_head.weight/grad_std"]
    assert [step for step, _ in recorded] == [2, 4]
    assert all(value > 0 for _, value in recorded)
    assert "project_q" not in found.log
    assert not any(tag.startswith("Parameters/") for tag in plain.events())
    assert found.losses() == plain.losses()


@sees("tensorboard_all_tasks", "exp_group")
def test_tensorboard_all_tasks_and_exp_group(plain, run):
    found = run(tensorboard_all_tasks=1, exp_group="group/")
    assert list((found.root / "tensorboard/group/u").glob("events.*"))
    events = found.events()
    assert [value for _, value in events["Loss/train"]] == pytest.approx(plain.losses())
    for line in found.metrics():
        for task, loss in line["task_loss"].items():
            assert dict(events[f"Loss/task/{task}"])[line["iteration"]] == pytest.approx(loss)
            assert dict(events[f"Data/task_tokens/{task}"])[line["iteration"]] == line["task_tokens"][task]
    assert not any("task" in tag for tag in plain.events())


@sees("plot_loss")
def test_plot_loss_draws_a_picture(run, plain, monkeypatch):
    folder = "checkpoints/logs/u/loss.png"
    assert (run(plot_loss=1).root / folder).read_bytes().startswith(b"\x89PNG\r\n")
    assert not (plain.root / folder).exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "needs matplotlib" in refused("--plot_loss", "1")
