"""The data stream of a run: the same on any ranks and workers, over damage, and over records that are appended."""

import itertools
import json
import os
import random
import re
import time

import pytest

from fm9g.data.index.build import Options, build
from fm9g.errors import UserError
from tests.support.apps import run_app, start_app
from tests.support.outputs import Output
from tests.support.places import index, prose_records
from tests.support.processes import kill_all, wait_until
from tests.support.runs_here import train_here

DATA = {"only_run_dataloader": 1, "batch_size": 1, "save": True, "inspect_iters": 0}
ROWS = 8  # a step, on any number of ranks


def digest(log):
    found = re.findall(r"^stream_sha256 ([0-9a-f]{64})$", log, re.MULTILINE)
    assert len(found) == 1, log
    return found[0]


def damage(folder, number):
    """Change a bit of a record, as a disk might: sizes and times stay."""
    lines = (folder / "data.jsonl").read_bytes().split(b"\n")
    times = os.stat(folder / "data.jsonl")
    lines[number] = bytes([lines[number][0] ^ 4]) + lines[number][1:]
    (folder / "data.jsonl").write_bytes(b"\n".join(lines))
    os.utime(folder / "data.jsonl", ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def own(place, tmp_path):
    """A mixture of one dataset of 200 records: its folder, and the settings to read it."""
    folder = index(tmp_path / "mine", prose_records(200))
    mixture = tmp_path / "mine.json"
    mixture.write_text(json.dumps([{"path": "mine", "abs_weight": 1, "task_name": "mine"}]))
    return folder, {**DATA, "dataset_config": mixture, "save_iters": 5}


@pytest.mark.parametrize(("ranks", "workers"), [(2, 1), (4, 0)])
def test_ranks_and_workers_do_not_change_the_stream(place, own, single_rank, tmp_path, ranks, workers):
    _, settings = own
    settings = {**settings, "train_iters": 40, "save_iters": 20}
    alone = train_here(place, tmp_path / "1", **settings, grad_accum=ROWS, dataloader_num_workers=0)
    words = place.words(
        tmp_path / "n", **settings, grad_accum=ROWS // ranks, n_gpus=ranks, dataloader_num_workers=workers
    )
    result = run_app(words, tmp_path)
    assert result.returncode == 0, result.output
    assert digest(result.output) == digest(alone.log)


@pytest.fixture
def long(own):
    """The settings of 10,000 steps."""
    return {**own[1], "train_iters": 10_000, "save_iters": 1000, "max_length": 32}


def layout(ranks, workers):
    return {"n_gpus": ranks, "grad_accum": ROWS // ranks, "dataloader_num_workers": workers}


def long_run(place, long, folder, ranks, workers):
    """The digest of a whole run."""
    result = run_app(place.words(folder, **long, **layout(ranks, workers)), folder.parent, timeout=1800)
    assert result.returncode == 0, result.output
    return digest(result.output)


@pytest.mark.soak
def test_the_stream_of_ten_thousand_steps(place, long, tmp_path):
    """1, 2, 4 and 8 ranks with 0, 1 and 4 workers each."""
    layouts = itertools.product((1, 2, 4, 8), (0, 1, 4))
    found = {layout: long_run(place, long, tmp_path / "{}-{}".format(*layout), *layout) for layout in layouts}
    assert len(set(found.values())) == 1, found


@pytest.mark.soak
def test_ten_thousand_steps_with_random_kills_and_other_ranks_after_each(place, long, tmp_path):
    r, output = random.Random(1), Output(tmp_path / "killed")
    for goal in sorted(r.sample(range(1000, 10_000, 1000), 5)):
        options = layout(r.choice((1, 2, 4, 8)), r.choice((0, 1, 4)))
        process = start_app(place.words(output.root, **long, **options, resume_ckpt="latest"), tmp_path)
        wait_until(lambda: process.poll() is not None or goal in output.steps(), f"step {goal}", 1800)  # noqa: B023
        time.sleep(r.uniform(0, 2))  # some steps more, which are lost
        assert process.poll() is None, process.communicate()[0]
        kill_all(process)
    words = place.words(output.root, **long, **layout(2, 1), resume_ckpt="latest")
    result = run_app(words, tmp_path, timeout=1800)
    assert result.returncode == 0, result.output
    assert digest(result.output) == long_run(place, long, tmp_path / "whole", 1, 0)


def test_a_damaged_record_is_skipped_alike_on_any_ranks_and_counted(place, own, single_rank, tmp_path):
    folder, settings = own
    damage(folder, 50)
    settings = {**settings, "train_iters": 40, "max_damaged_share": 0.01}
    alone = train_here(place, tmp_path / "1", **settings, grad_accum=4)
    assert "skips a damaged record" in alone.log
    assert f"{folder}/data.jsonl, record 50 (line 51), byte " in alone.log
    progress = alone.progress(40)
    assert progress["task_damaged"] == progress["task_skipped"]
    assert progress["task_damaged"]["mine"] >= 1
    result = run_app(place.words(tmp_path / "2", **settings, n_gpus=2, grad_accum=2), tmp_path)
    assert result.returncode == 0, result.output
    assert Output(tmp_path / "2").progress(40) == progress


def test_more_damage_than_allowed_ends_the_run_and_says_where(place, own, single_rank, tmp_path):
    folder, settings = own
    damage(folder, 50)
    says = r"dataset 'mine': 1 damaged record\(s\) so far \(.*record 50 \(line 51\), byte \d+: .*check_index\.py"
    with pytest.raises(UserError, match=says):
        train_here(place, tmp_path / "out", **settings, train_iters=100, max_damaged_share=0.001)


def test_empty_records_are_skipped_and_counted(place, tmp_path, single_rank):
    index(tmp_path / "some", [{"input": "", "output": text} for text in ("one", "", "two", "", "", "three")])
    mixture = tmp_path / "m.json"
    mixture.write_text(json.dumps([{"path": "some", "abs_weight": 1, "task_name": "t", "allow_repeat": False}]))
    run = train_here(place, tmp_path / "out", **DATA, dataset_config=mixture, train_iters=40, stop_when_end=1)
    assert "t 100.00% (3 documents, 1.00 epochs, 100.0% learned, 3 skipped)" in run.log
    assert run.log.count("dataset 't': records are left out, record ") == 1
    assert "it is empty (counted in state.json as task_skipped)" in run.log


def test_appended_records_come_at_the_end_of_the_epoch(place, own, single_rank, tmp_path):
    """The epoch that was begun keeps its order, and each of its records, old or new, is read exactly once."""
    folder, settings = own
    once = json.loads(settings["dataset_config"].read_text())
    settings["dataset_config"].write_text(json.dumps([{**once[0], "allow_repeat": False}]))
    settings = {**settings, "stop_when_end": 1, "train_iters": 1000}
    train_here(place, tmp_path / "out", **{**settings, "train_iters": 10, "stop_when_end": 0})
    index(tmp_path / "more", [{"input": "", "output": f"more {i}"} for i in range(30)])
    build(tmp_path / "more.jsonl", folder, "en", Options(append=True))
    run = train_here(place, tmp_path / "out", **settings, resume_ckpt="latest")
    assert "dataset 'mine': 30 records were appended; they are read from epoch 1 on" in run.log
    assert run.progress(run.latest())["task_documents"] == {"mine": 230}


def test_what_ends_before_the_run_is_said_at_its_start(place, own, single_rank, tmp_path):
    _, settings = own
    once = json.loads(settings["dataset_config"].read_text())
    settings["dataset_config"].write_text(json.dumps([{**once[0], "allow_repeat": False}]))
    run = train_here(place, tmp_path / "out", **settings, train_iters=1000, stop_when_end=1, grad_accum=1)
    (told,) = re.findall(r"dataset 'mine' ends at about step (\d+) of 1,000", run.log)
    assert 0.6 * run.latest() < int(told) < 1.1 * run.latest()  # lanes of a dozen documents end one after the other
    assert "the run ends there" in run.log


def test_where_the_time_goes_is_reported(place, own, single_rank, tmp_path):
    _, settings = own
    log = train_here(place, tmp_path / "out", **settings, train_iters=10, dataloader_num_workers=1).log
    assert re.search(r"^first batch after \d+\.\d\d s$", log, re.MULTILINE)
    assert re.search(
        r"rank 0: [\d,]+ tok/s per loader process while it works; time: reading \d+%, transforming \d+%, "
        r"tokenizing \d+%, packing \d+%; memory: [\d,]+ MB$",
        log,
        re.MULTILINE,
    )
