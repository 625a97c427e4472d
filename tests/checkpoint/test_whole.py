"""Checkpoints that are whole are known to be, and others are named and not used."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest

from fm9g.checkpoint import shared_file, summed_file
from fm9g.errors import UserError
from tests.support.outputs import Output
from tests.support.runs_here import refused_early, refused_here, train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")

FILES = ["fm9g_live_checkpoint-3.pt", "optimizer-00000.pt", "random-00000.pt", "data-00000.pt", "state.json"]
LISTED = "steps that are whole, by the sizes of their files: 1, 2"


def flip(path):
    """Turn one bit of a file: in the middle, or in a number of the settings."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if path.suffix == ".pt" else data.index(b'"seed": ') + 8] ^= 1
    path.write_bytes(data)


# damage


@pytest.mark.parametrize("kind", FILES)
def test_a_bit_that_is_turned_is_noticed(place, own, kind):
    path = own.checkpoints / "3" / kind
    flip(path)
    message = refused_here(place, own.root, resume_ckpt="3", train_iters=4)
    assert f"{path} is damaged: its checksum is not that of what was written; {LISTED}" in message


@pytest.mark.parametrize("damaged", [(3,), (3, 2)])
def test_latest_goes_on_from_the_newest_whole_one(place, own, damaged):
    for step in damaged:
        flip(own.checkpoints / f"{step}/optimizer-00000.pt")
    run = train_here(place, own.root, resume_ckpt="latest", train_iters=4, save_iters=1)
    for step in damaged:
        assert f"warning: checkpoint {step} is not whole: {own.checkpoints}/{step}/optimizer-00000.pt is dam" in run.log
    assert f"resuming {own.checkpoints}/{min(damaged) - 1} at step" in run.log
    again = train_here(place, own.root.parent / "unharmed", train_iters=4, save_iters=1)
    assert run.learned() == again.learned()
    assert (own.checkpoints / "3.superseded-1").is_dir()  # what is damaged is the user's to delete


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("cut", [None, 100])
def test_a_file_that_is_missing_or_cut_is_known_before_a_run_begins(place, own, kind, cut):
    path = own.checkpoints / "3" / kind
    size = path.stat().st_size
    os.truncate(path, size - cut) if cut else path.unlink()
    says = f"{path}: has {size - cut:,} bytes, {size:,} were written" if cut else f"{path} is missing"
    if kind == "state.json":
        says = str(path)  # it is read first
    assert says in refused_early(place, own.root, resume_ckpt="3", train_iters=4)
    assert says in refused_here(place, own.root, resume_ckpt="3", train_iters=4)


@pytest.mark.parametrize("kind", ["random", "data", "optimizer"])
def test_the_file_of_a_rank_that_was_not_there_is_named(place, own, kind):
    other = own.checkpoints / f"3/{kind}-00001.pt"
    shutil.copy(other.with_name(f"{kind}-00000.pt"), other)
    assert f"{other} is not of this checkpoint: remove it" in refused_early(place, own.root, resume_ckpt="3")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is missing"),
        ("{", "not valid JSON"),
        ("[]", "not a manifest as it was written"),
        ('{"version": 1, "files": {"state.json": {"size": "x"}}}', "not a manifest as it was written"),
        ('{"version": 2, "files": {}}', "of version 2, this is FM9G that knows version 1"),
    ],
)
def test_a_manifest_that_is_missing_or_none_is_named(place, own, content, says):
    path = own.checkpoints / "3/manifest.json"
    path.write_text(content) if content else path.unlink()
    message = refused_early(place, own.root, resume_ckpt="3", train_iters=4)
    assert str(path) in message
    assert says in message


def test_no_whole_one_is_refused(place, own):
    """And nothing begins anew."""
    for step in (1, 2, 3):
        flip(own.checkpoints / f"{step}/state.json")
    message = refused_here(place, own.root, resume_ckpt="latest", train_iters=4)
    assert f"{own.checkpoints}: no checkpoint up to 3 is whole" in message
    assert own.steps() == [1, 2, 3]


def test_one_without_weights_or_of_another_step_is_not_whole(place, own):
    shutil.copytree(own.checkpoints / "2", own.checkpoints / "5")
    (own.checkpoints / "latest").write_text("5\n")
    manifest = json.loads((own.checkpoints / "3/manifest.json").read_text())
    del manifest["files"]["fm9g_live_checkpoint-3.pt"]
    (own.checkpoints / "3/manifest.json").write_text(json.dumps(manifest))
    run = train_here(place, own.root, resume_ckpt="latest", train_iters=4)
    assert f"checkpoint 5 is not whole: {own.checkpoints}/5/state.json is of step 2" in run.log
    assert f"checkpoint 3 is not whole: {own.checkpoints}/3/manifest.json lists no weights" in run.log
    assert f"resuming {own.checkpoints / '2'} at step 2" in run.log


def test_what_is_not_read_may_be_damaged(place, own):
    for kind in ("optimizer", "random", "data"):
        flip(own.checkpoints / f"3/{kind}-00000.pt")
    train_here(place, own.root, resume_ckpt="3", only_load_model=1, save=0)
    shutil.copy(own.checkpoints / "2/random-00000.pt", own.checkpoints / "3/random-00000.pt")
    own.take_as_written(3)
    flip(own.checkpoints / "3/optimizer-00000.pt")
    train_here(place, own.root, resume_ckpt="3", load_grad=0, train_iters=4)


def test_a_checkpoint_of_before_manifests_is_taken(place, own):
    folder = own.checkpoints / "3"
    (folder / "manifest.json").unlink()
    state = own.state(3)
    del state["version"]
    (folder / "state.json").write_text(json.dumps(state))
    run = train_here(place, own.root, resume_ckpt="3", train_iters=4)
    assert f"resuming {folder} at step 3" in run.log
    assert f"{folder} has no manifest" in run.log


# kills


def test_a_checkpoint_that_lacked_its_name_alone_gets_it(place, own):
    """A kill between `latest` and the rename."""
    os.rename(own.checkpoints / "3", own.checkpoints / ".3.partial")
    run = train_here(place, own.root, resume_ckpt="latest", train_iters=4)
    assert "checkpoint 3 was complete when the run was killed, but for its name" in run.log
    assert f"resuming {own.checkpoints}/3 at step 3" in run.log
    assert "names no checkpoint" not in run.log


def test_one_that_was_there_before_is_kept_aside(place, own):
    """A kill between the two renames."""
    shutil.copytree(own.checkpoints / "3", own.checkpoints / ".3.partial")
    run = train_here(place, own.root, resume_ckpt="latest", train_iters=4)
    assert f"resuming {own.checkpoints}/3 at step 3" in run.log
    assert (own.checkpoints / "3.superseded-1").is_dir()


@pytest.mark.parametrize("lacking", ["manifest.json", "data-00000.pt"])
def test_one_that_lacks_more_does_not(place, own, lacking):
    os.rename(own.checkpoints / "3", own.checkpoints / ".3.partial")
    (own.checkpoints / ".3.partial" / lacking).unlink()
    run = train_here(place, own.root, resume_ckpt="latest", train_iters=4)
    assert f"resuming {own.checkpoints}/2 at step 2" in run.log


# disks


def full_disk(monkeypatch, module, step):
    """Let no file of this step's checkpoint come onto the disk."""
    fsync = os.fsync

    def failing(descriptor):
        if f".{step}.partial" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(module.os, "fsync", failing)


@pytest.mark.parametrize("module", [shared_file, summed_file])
def test_a_full_disk_costs_that_checkpoint_alone(place, tmp_path, monkeypatch, module):
    full_disk(monkeypatch, module, 2)
    run = train_here(place, tmp_path, train_iters=3, save_iters=1)
    assert "warning: checkpoint 2 could not be saved: rank 0: [Errno 28] No space left on device" in run.log
    assert run.steps() == [1, 3]
    assert run.latest() == 3
    assert not list(run.checkpoints.glob(".*partial"))


def test_it_ends_the_run_where_that_is_asked_for(place, tmp_path, monkeypatch):
    full_disk(monkeypatch, summed_file, 2)
    message = refused_here(place, tmp_path, train_iters=3, save_iters=1, save_failure="stop")
    assert "checkpoint 2 could not be saved: rank 0: [Errno 28] No space left" in message
    assert Output(tmp_path).latest() == 1


def test_the_last_one_must_be_saved(place, tmp_path, monkeypatch):
    full_disk(monkeypatch, summed_file, 3)
    message = refused_here(place, tmp_path, train_iters=3, save_iters=1)
    assert "checkpoint 3 could not be saved: rank 0: [Errno 28] No space left" in message
    assert Output(tmp_path).latest() == 2
    monkeypatch.undo()
    assert train_here(place, tmp_path, train_iters=3, save_iters=1, resume_ckpt="latest").latest() == 3


def test_a_folder_that_is_gone_is_told(place, tmp_path):
    with training_here(place, tmp_path, save_failure="stop") as run:
        shutil.rmtree(run.checkpoints.folder.checkpoints)
        with pytest.raises(UserError, match=r"checkpoint 0 could not be saved: rank 0: .*No such file"):
            run.checkpoints.save(0, run.contents)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("ranks"), "ranks is not there"),
        (lambda state: state.update(progress=[]), "progress is not what it should be"),
        (lambda state: state["progress"].update(step="3"), "progress has no step"),
        (lambda state: state["progress"].update(speed=3), "progress is not what this version writes"),
        (lambda state: state["best"].update(worst=3), "best is not what this version writes"),
        (lambda state: state["bad_steps"].update(good=3), "bad_steps is not what this version writes"),
    ],
)
def test_a_state_that_says_something_else_is_one_line(place, own, change, says):
    path = own.checkpoints / "3/state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    own.take_as_written(3)
    said = refused_here(place, own.root, resume_ckpt=3, train_iters=4)
    assert f"{path}: {says}" in said
