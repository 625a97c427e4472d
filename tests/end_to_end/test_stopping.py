"""A run that is asked to stop saves first, and the same command goes on from there."""

import os
import signal
from pathlib import Path

import pytest

from fm9g import launcher
from tests.support.apps import run_app, start_paused
from tests.support.outputs import Output
from tests.support.processes import descendants, is_alive, wait_until
from tests.support.ranks import finish
from tests.support.runs_here import train_here

STEPS, ASKED_AT = 8, 3


@pytest.fixture(scope="module")
def whole(place, single_rank, tmp_path_factory):
    """A run of one rank that nothing stops."""
    return train_here(place, tmp_path_factory.mktemp("whole"), train_iters=STEPS)


def rank_of(process, number):
    """The process of a rank: torchrun starts them in order."""
    ranks = (pid for pid in descendants(process.pid) if b"pausing" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return sorted(ranks)[number]


def assert_goes_on(place, whole, words, output, tmp_path):
    again = run_app(words, tmp_path)
    assert again.returncode == 0, again.output
    assert f"at step {ASKED_AT + 1}" in again.output
    assert output.learned() == whole.learned()
    assert output.progress(STEPS) == whole.progress(STEPS)


@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.soak) for name in ("SIGUSR1", "SIGINT"))]
)
def test_a_signal_to_the_launcher(place, whole, tmp_path, name):
    output = Output(tmp_path / "out")
    words = place.words(output.root, train_iters=STEPS, resume_ckpt="latest", dataloader_num_workers=1)
    process = start_paused(words, tmp_path, ASKED_AT)
    process.send_signal(getattr(signal, name))
    ended = finish(process, 60)
    assert ended.returncode == launcher.STOPPED, ended.output
    assert f"{name}: the run stops when its step is done and saved; a second signal ends it at once" in ended.output
    assert output.steps() == [ASKED_AT + 1]
    assert f"stopped after step {ASKED_AT + 1}, which is saved" in ended.output
    assert not (output.metrics_file.parent / "train_results.json").exists()
    if name == "SIGTERM":
        assert_goes_on(place, whole, words, output, tmp_path)


def test_a_signal_to_all_processes_of_two_ranks(place, tmp_path):
    """As a scheduler sends it: to launcher, ranks and loader processes alike, of which each hears one."""
    output = Output(tmp_path / "out")
    words = place.words(
        output.root, n_gpus=2, grad_accum=1, train_iters=STEPS, dataloader_num_workers=2, resume_ckpt="latest"
    )
    process = start_paused(words, tmp_path, ASKED_AT)
    for pid in [process.pid, *descendants(process.pid)]:
        os.kill(pid, signal.SIGTERM)
    ended = finish(process, 60)
    assert ended.returncode == launcher.STOPPED, ended.output
    assert output.steps() == [ASKED_AT + 1]
    again = run_app(words, tmp_path)
    assert again.returncode == 0, again.output
    assert output.latest() == STEPS


@pytest.mark.soak
def test_a_signal_to_one_rank_of_two(place, tmp_path):
    output = Output(tmp_path / "out")
    process = start_paused(place.words(output.root, n_gpus=2, train_iters=STEPS), tmp_path, ASKED_AT)
    os.kill(rank_of(process, 0), signal.SIGUSR1)
    ended = finish(process, 60)
    assert ended.returncode == launcher.STOPPED, ended.output
    assert output.steps() == [ASKED_AT + 1]


def test_a_second_signal_ends_the_run_at_once(place, tmp_path):
    output = Output(tmp_path / "out")
    words = place.words(output.root, n_gpus=2, train_iters=STEPS, dataloader_num_workers=1)
    process = start_paused(words, tmp_path, ASKED_AT, {"FM9G_TEST_DEAF": "1"})
    started = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    while "the run stops when its step is done" not in process.stdout.readline():
        pass  # two at the same moment are one
    process.send_signal(signal.SIGTERM)
    ended = finish(process, 60)
    assert ended.returncode == 128 + signal.SIGTERM, ended.output
    assert "the run was ended at once: what it did since its last checkpoint is lost" in ended.output
    wait_until(lambda: not any(map(is_alive, started)), "the end of the ranks and their loaders")
    assert output.steps() == []
