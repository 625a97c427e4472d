"""A run that is killed at any moment and resumed is the run that was never killed."""

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from fm9g.checkpoint import weights_files
from tests.support.apps import run_app, run_killed, start_app
from tests.support.outputs import Output, copy_output
from tests.support.processes import descendants, is_alive, kill_all, wait_until
from tests.support.runs_here import train_here, training_here

STEPS, KILLED_AT = 12, 6


@pytest.fixture(scope="module")
def options(place):
    """Dropout and loader processes, so that random states and prefetched data matter."""
    return {
        "config": place.write_model("dropout", dropout_p=0.1),
        "dataloader_num_workers": 2,
        "dataloader_prefetch_factor": 2,
        "train_iters": STEPS,
        "save_iters": 4,
    }


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def killed(request, place, options, tmp_path_factory):
    """(settings, a run never killed, one killed between the checkpoints of steps 4 and 8)."""
    folder = tmp_path_factory.mktemp("killed")
    settings = {**options, "n_gpus": request.param}
    result = run_app(place.words(folder / "whole", **settings), folder)
    assert result.returncode == 0, result.output
    run_killed(place.words(folder / "killed", **settings), folder, KILLED_AT)
    return settings, Output(folder / "whole"), Output(folder / "killed")


def test_a_killed_and_resumed_run_repeats_every_number_bit_for_bit(place, killed, tmp_path):
    settings, whole, before = killed
    assert (before.steps(), before.latest()) == ([4], 4)
    resumed = copy_output(before, tmp_path / "resumed")
    result = run_app(place.words(resumed.root, **settings, resume_ckpt="latest"), tmp_path)
    assert result.returncode == 0, result.output
    assert "at step 4" in result.output
    assert [line["iteration"] for line in resumed.metrics()] == list(range(1, STEPS + 1))
    assert resumed.learned() == whole.learned()
    assert resumed.progress(STEPS) == whole.progress(STEPS)
    expected = whole.weights(STEPS)
    assert all(torch.equal(weight, expected[name]) for name, weight in resumed.weights(STEPS).items())


def test_resumed_on_one_rank_it_reads_the_same_documents(place, killed, single_rank, tmp_path):
    settings, whole, before = killed
    resumed = copy_output(before, tmp_path / "resumed")
    train_here(place, resumed.root, **{**settings, "n_gpus": 1, "dataloader_num_workers": 0}, resume_ckpt="latest")
    assert resumed.progress(STEPS) == whole.progress(STEPS)  # documents and tokens by task, stream_sha256
    tokens = [(line["tokens"], line["task_tokens"]) for line in resumed.metrics()]
    assert tokens == [(line["tokens"], line["task_tokens"]) for line in whole.metrics()]


def test_the_data_stream_is_the_same_on_other_ranks(place, single_rank, tmp_path):
    data = {"only_run_dataloader": 1, "batch_size": 1, "grad_accum": 4, "train_iters": 30, "save_iters": 10}
    whole = train_here(place, tmp_path / "whole", **data)
    part = Output(tmp_path / "part")
    shutil.copytree(whole.checkpoints / "10", part.checkpoints / "10")
    words = place.words(part.root, **data, n_gpus=4, dataloader_num_workers=2, resume_ckpt=10)
    result = run_app(words, tmp_path)
    assert result.returncode == 0, result.output
    assert "grad_accum is 1 (not 4) to keep the checkpoint's 4 rows per step" in result.output
    assert result.output.splitlines()[-1] == whole.log.splitlines()[-1]
    assert result.output.splitlines()[-1].startswith("stream_sha256 ")
    assert part.progress(30) == whole.progress(30)


def test_latest_with_nothing_there_starts_at_the_beginning(place, single_rank, tmp_path):
    run = train_here(place, tmp_path, resume_ckpt="latest", train_iters=2)
    assert [line["iteration"] for line in run.metrics()] == [1, 2]


def test_a_resume_can_go_back_to_an_earlier_step(place, single_rank, tmp_path):
    whole = train_here(place, tmp_path / "whole", train_iters=6, save_iters=2)
    again = copy_output(whole, tmp_path / "again")
    train_here(place, again.root, train_iters=6, save_iters=2, resume_ckpt=2)
    assert again.learned() == whole.learned()
    assert {path.name for path in again.checkpoints.iterdir()} >= {"4", "4.superseded-1", "6", "6.superseded-1"}


def test_after_a_return_to_an_earlier_step_latest_follows_the_new_course(place, single_rank, tmp_path):
    train_here(place, tmp_path, train_iters=6, save_iters=2)
    with training_here(place, tmp_path, train_iters=6, save_iters=2, resume_ckpt=2, lr=1e-4) as run:
        run.stream.progress.step = 4  # as if it were killed after this checkpoint, with that of step 6 from before
        run.checkpoints.save(run.stream.progress.step, run.contents)
    with training_here(place, tmp_path, resume_ckpt="latest", train_iters=6) as run:
        assert run.stream.progress.step == 4


def test_a_finished_run_that_is_resumed_has_nothing_to_do(place, single_rank, tmp_path):
    whole = train_here(place, tmp_path, train_iters=3)
    before = whole.learned()
    again = train_here(place, tmp_path, train_iters=3, resume_ckpt="latest")
    assert again.learned() == before
    assert again.steps() == [3]


# killed in the middle of a save: a child of this process kills itself at one of the calls that reach the disk


def killed_at_disk_write(place, output, number, **settings):
    """Run in a forked child that is killed at its `number`th write to the disk; whether it came that far."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            count, fsync = [0], os.fsync

            def fsync_or_die(descriptor):
                count[0] += 1
                if count[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                fsync(descriptor)

            os.fsync = fsync_or_die
            train_here(place, output, **settings)
            status = 0
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["pt", pytest.param("safetensors", marks=pytest.mark.soak)])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_former_one_intact(
    place, single_rank, tmp_path, monkeypatch, form
):
    monkeypatch.setattr(weights_files, "SHARD_BYTES", 60_000)  # less than half of the model
    settings = {"train_iters": 4, "save_iters": 2, "save_format": form}
    whole = train_here(place, tmp_path / "whole", **settings)
    half = train_here(place, tmp_path / "half", train_iters=2)
    former, found, number = contents(half.checkpoints / "2"), set(), 1
    while True:
        output = copy_output(half, tmp_path / str(number))
        if not killed_at_disk_write(place, output.root, number, **settings, resume_ckpt="latest"):
            break
        assert contents(output.checkpoints / "2") == former
        found.add((tuple(output.steps()), output.latest()))
        train_here(place, output.root, **settings, resume_ckpt="latest")
        assert output.progress(4) == whole.progress(4)
        assert output.latest() == 4
        assert output.learned()[2:] == whole.learned()[2:]
        shutil.rmtree(output.root)
        number += 1
    assert number > 6  # each file, the folder, its name and `latest`
    assert found == {((2,), 2), ((2,), 4), ((2, 4), 4)}


def kill_launcher(process):
    """SIGKILL to the launcher alone: its ranks must not outlive it."""
    started = descendants(process.pid)
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_alive, started)), "the end of the ranks")


def kill_rank(process):
    """SIGKILL to one rank, or where there is none yet, to the launcher: the others must not outlive it."""
    started = descendants(process.pid)
    ranks = [pid for pid in started if is_alive(pid) and "pretrain.py" in cmdline(pid)]
    if not ranks:
        return kill_launcher(process)
    with contextlib.suppress(ProcessLookupError):
        os.kill(ranks[-1], signal.SIGKILL)
    process.communicate(timeout=90)
    wait_until(lambda: not any(map(is_alive, started)), "the end of the ranks")


def cmdline(pid):
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_text()
    return ""


def inode(path):
    return path.stat().st_ino if path.exists() else None


def reached(output, before, goal):
    """Whether a resumed run, which first replaces its metrics, has written those of iteration `goal`."""
    return inode(output.metrics_file) != before and bool(lines := output.metrics()) and lines[-1]["iteration"] >= goal


@pytest.fixture(scope="module")
def base(place, single_rank, tmp_path_factory):
    """Weights for adapters."""
    return train_here(place, tmp_path_factory.mktemp("base"), train_iters=2).checkpoints / "2/fm9g_live_checkpoint-2.pt"


@pytest.mark.soak
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("background", [False, True], ids=["waiting", "async_save"])
@pytest.mark.parametrize("lora", [False, True], ids=["all", "LoRA"])
def test_a_long_run_with_many_random_kills(place, options, base, tmp_path, ranks, background, lora):
    """Any instant: a power cut for all processes at once, the end of the launcher alone, or of one rank."""
    settings = {**options, "train_iters": 400, "save_iters": 8, "n_gpus": ranks, "async_save": background}
    if lora:
        settings |= {"lora": 1, "lora_layer": "all", "lora_r": 4, "pretrained_model": base}
    result = run_app(place.words(tmp_path / "whole", **settings), tmp_path, timeout=1200)
    assert result.returncode == 0, result.output
    whole, output = Output(tmp_path / "whole"), Output(tmp_path / "killed")
    r, kills, deadline = random.Random(ranks + 2 * background + 4 * lora), 0, time.monotonic() + 3600
    while 400 not in output.steps():
        assert time.monotonic() < deadline
        before, done = inode(output.metrics_file), output.latest() if output.steps() else 0
        process = start_app(place.words(output.root, **settings, resume_ckpt="latest"), tmp_path)
        if r.random() < 0.2:
            time.sleep(r.uniform(0, 6))  # while it starts, mostly
        else:
            goal = min(done + r.randint(1, 50), 401)
            wait_until(lambda: process.poll() is not None or reached(output, before, goal), f"iteration {goal}", 600)  # noqa: B023
            time.sleep(r.uniform(0, 0.1))  # in and between saves
        if process.poll() is None:
            kills += 1
            r.choice([kill_all, kill_launcher, kill_rank])(process)
        else:
            assert process.returncode == 0, process.communicate()[0]
    assert kills >= 13  # 100 over all cases
    assert [line["iteration"] for line in output.metrics()] == list(range(1, 401))
    assert output.learned() == whole.learned()
    assert output.progress(400) == whole.progress(400)
    expected = whole.weights(400)
    assert all(torch.equal(weight, expected[name]) for name, weight in output.weights(400).items())
