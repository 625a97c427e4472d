"""How a run is dealt to processes: defaults, what is refused, and what each setting does."""

import os
import sys
import time

import pytest
import torch

from fm9g.commands import train
from fm9g.errors import UserError
from fm9g.model.feedforward import FeedForward
from fm9g.objectives.language_model import LanguageModel
from fm9g.runtime import bmt, process
from fm9g.training.inputs import find
from fm9g.training.settings import RunSettings, Settings
from tests.settings.helpers import defaults, refused, sees
from tests.support.places import SETTINGS
from tests.support.runs_here import command_here, load_program

pytestmark = pytest.mark.usefixtures("single_rank")
OptimManager = bmt.optim.OptimManager
DEFAULTS = {
    "n_gpus": 2,
    "batch_size": 1,
    "grad_accum": 1,
    "tp_size": 1,
    "seed": 1234,
    "max_restarts": 0,
    "step_timeout": 1800.0,
    "max_hours": None,
    "local": False,
    "ignore_cuda_oom": True,
    "check_cluster": False,
    "dry_run": False,
}


def test_defaults():
    assert defaults(RunSettings) == DEFAULTS


@sees("tp_size")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tp_size", "0"], "tp_size must be at least 1"),
        (["--tp_size", "2", "--n_gpus", "3"], "tp_size 2 does not divide the 3 rank(s) of the run"),
        (["--n_gpus", "0"], "n_gpus must be at least 1, not 0"),
        (["--batch_size", "-1"], "batch_size must be at least 1, not -1"),
        (["--grad_accum", "0"], "grad_accum must be at least 1"),
        (["--max_hours", "0"], "max_hours must be finite and above 0, not 0"),
    ],
)
def test_values_that_no_run_can_have_are_refused(words, says):
    assert says in refused(*words)


def launched(monkeypatch, place, tmp_path, **changes):
    """What launch.py gives to torchrun."""
    commands = []
    monkeypatch.setattr(sys, "argv", ["launch.py", "program.py", *place.words(tmp_path, **changes)])
    monkeypatch.setattr(train, "launch", commands.append)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    load_program("launch").main()
    return commands[0]


@sees("n_gpus")
def test_n_gpus_is_the_number_of_processes(monkeypatch, place, tmp_path):
    command = launched(monkeypatch, place, tmp_path, n_gpus=3)
    assert "--nproc_per_node=3" in command
    assert "--standalone" in command
    assert "--max_restarts=0" in command


@sees("max_restarts")
def test_max_restarts_is_torchruns(monkeypatch, place, tmp_path):
    assert "--max_restarts=3" in launched(monkeypatch, place, tmp_path, max_restarts=3)


@sees("check_cluster")
def test_a_cluster_is_checked_and_nothing_trained(run):
    checked = run(check_cluster=1)
    assert "1 node(s), 1 rank(s)" in checked.log
    assert f"all nodes see {checked.checkpoints}" in checked.log
    assert not checked.metrics()
    assert list(checked.checkpoints.iterdir()) == []


@sees("step_timeout")
def test_a_run_that_comes_no_further_ends(run, monkeypatch):
    ends, cost = [], LanguageModel.cost
    monkeypatch.setattr(process, "_end_overdue", ends.append)

    def slow(objective, strip, context):
        time.sleep(0.5)
        return cost(objective, strip, context)

    monkeypatch.setattr(LanguageModel, "cost", slow)
    run(train_iters=2, step_timeout=0.4)
    assert ends[0].startswith("step 1, for more than 0.4 s")
    ends.clear()
    run(train_iters=2)
    assert not ends


@sees("max_hours")
def test_when_its_hours_have_passed_a_run_saves_and_stops(run):
    stopped = run(max_hours=1e-9)
    assert stopped.steps() == [1]
    assert "max_hours 1e-09 have passed: the run stops after this step" in stopped.log
    assert "stopped after step 1, which is saved: resume_ckpt latest goes on from there" in stopped.log
    assert run(max_hours=1).steps() == [4]


def test_the_data_alone_stops_so_too(run):
    stopped = run(max_hours=1e-9, only_run_dataloader=1)
    assert stopped.steps() == [1]
    assert "stream_sha256" not in stopped.log


@sees("max_length", "batch_size", "grad_accum")
def test_a_step_is_grad_accum_times_batch_size_rows_of_max_length(run):
    found = run(max_length=32, batch_size=3, grad_accum=2, train_iters=2)
    assert "6 rows of 32 tokens per step" in found.log
    assert 5 * 32 < found.metrics()[0]["tokens"] <= 6 * 32
    stream = found.state(2)["stream"]
    assert (stream["rows_per_step"], stream["row_length"]) == (6, 32)


@sees("local")
def test_local_takes_paths_as_they_are(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    assert find(Settings(local=False), tmp_path, "tokenizer") == tmp_path / "tokenizer"
    assert str(find(Settings(local=True), tmp_path, "tokenizer")) == "tokenizer"


@sees("ignore_cuda_oom")
@pytest.mark.parametrize("at", [(1, "a block"), (2, "a block"), (2, "backward")])
def test_a_step_without_memory_is_jumped_over_or_ends_the_run(run, monkeypatch, at):
    step, place = at
    calls = []

    def full(original, first):
        def fails(*arguments, **options):
            calls.append(1)
            if len(calls) == first:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
            return original(*arguments, **options)

        return fails

    if place == "a block":  # the second of two in a micro-step, of which a step has two
        monkeypatch.setattr(FeedForward, "forward", full(FeedForward.forward, 4 * step - 2))
    else:
        monkeypatch.setattr(OptimManager, "backward", full(OptimManager.backward, 2 * step))
    jumped = run()
    assert [line["skipped"] for line in jumped.metrics()] == ["out of memory" if i == step else "" for i in range(1, 5)]
    assert "Tried to allocate 2.00 GiB.; about" in jumped.log
    assert "try use_checkpoint=1" in jumped.log
    if at != (1, "a block"):
        calls.clear()
        with pytest.raises(UserError, match=f"iteration {step}: rank 0 is out of memory: CUDA out of memory"):
            run(ignore_cuda_oom=0)
    monkeypatch.undo()
    assert jumped.losses()[step:] == run(skip_iters=str(step)).losses()[step:]  # nothing of it is left


@sees("seed")
def test_the_seed_changes_weights_and_data(plain, run):
    assert run(seed=SETTINGS["seed"]).losses() == plain.losses()
    other = run(seed=77, train_iters=2, save_iters=1)
    assert other.losses()[0] != plain.losses()[0]
    assert other.progress(1)["stream_sha256"] != plain.progress(1)["stream_sha256"]


@sees("dry_run")
def test_dry_run_reports_and_starts_nothing(place, tmp_path):
    result = command_here(place.words(tmp_path, dry_run=1, n_gpus=2))
    assert result.returncode == 0
    for part in (
        "parameters, float32, 2 layers",
        "4 rows x 64 = 256 tokens",
        "2 ranks",
        "prose",
        "GB per rank",
        "lanes",
    ):
        assert part in result.output
    assert not list(tmp_path.rglob("metrics.jsonl"))
    assert not list(tmp_path.rglob("[0-9]*"))


@sees("dry_run")
@pytest.mark.parametrize("wrong", [{"tokenizer_path": "nowhere"}, {"resume_ckpt": "7"}, {"max_length": 4096}])
def test_dry_run_checks_everything(place, tmp_path, wrong):
    assert command_here(place.words(tmp_path, dry_run=1, **wrong)).returncode == 1


@pytest.mark.parametrize("word", ["--local", "--log", "--rdzv", "--role", "--node"])
def test_torchrun_takes_no_setting_for_a_flag_of_its_own(monkeypatch, place, tmp_path, word):
    """Of which these are shortened forms."""
    from torch.distributed.run import parse_args

    command = launched(monkeypatch, place, tmp_path, n_gpus=3)
    read = parse_args([*command, word, "1"])
    assert (read.training_script, read.training_script_args) == ("program.py", [*sys.argv[2:], word, "1"])
    assert read.nproc_per_node == "3"
