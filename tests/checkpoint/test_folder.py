"""A run's folder: one writer, no mixing of runs, the step to resume."""

import errno
import gc
import multiprocessing
import os
from pathlib import Path

import pytest

from fm9g import files
from fm9g.checkpoint import choice
from fm9g.checkpoint.folder import RunFolder
from fm9g.checkpoint.manifest import everything
from fm9g.errors import UserError


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "out", "u", "group/")
    made.create()
    return made


def complete(folder, *steps):
    for step in steps:
        (folder.checkpoints / str(step)).mkdir()
        (folder.checkpoints / str(step) / "state.json").write_text("{}")


def start_step(folder, resume_ckpt):
    return choice.start_step(folder, resume_ckpt, everything)


def test_where_a_run_writes(folder, tmp_path):
    assert folder.checkpoints == tmp_path / "out/checkpoints/u"
    assert folder.logs == tmp_path / "out/checkpoints/logs/u"
    assert folder.tensorboard == tmp_path / "out/tensorboard/group/u"
    assert folder.checkpoints.is_dir()
    assert folder.logs.is_dir()
    assert folder.tensorboard.is_dir()


def test_the_experiment_group_is_a_prefix(tmp_path):
    assert RunFolder(tmp_path, "u", "lr3_").tensorboard == tmp_path / "tensorboard/lr3_u"


def test_creating_twice_changes_nothing(folder):
    complete(folder, 5)
    folder.create()
    assert folder.steps() == [5]


def test_only_one_writer_at_a_time(folder):
    lock = folder.lock()
    with pytest.raises(UserError, match=r"checkpoints/u is being written by process \d+ on .*: end it, or use another"):
        folder.lock()
    lock.close()
    folder.lock().close()


def test_a_lock_that_a_dead_process_left_does_not_hold(folder):
    (folder.checkpoints / ".lock").write_text("process 1 on elsewhere\n")
    folder.lock().close()


def test_a_lock_that_is_no_longer_used_does_not_hold(folder):
    folder.lock()
    gc.collect()
    folder.lock().close()


def test_a_process_that_was_forked_meanwhile_does_not_hold_it(folder):
    """As loader processes are, which outlive a killed rank by some seconds."""
    lock, context = folder.lock(), multiprocessing.get_context("fork")
    runs, ends = context.Event(), context.Event()
    child = context.Process(target=lambda: (runs.set(), ends.wait(60)), daemon=True)
    child.start()
    try:
        assert runs.wait(60)
        lock.close()
        folder.lock().close()
    finally:
        ends.set()
        child.join(60)


def test_a_file_system_without_locks_is_told_and_used(folder, monkeypatch, capsys):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    folder.lock().close()
    assert f"the file system of {folder.checkpoints} has no locks" in capsys.readouterr().err


def test_runs_of_other_names_do_not_lock_each_other(folder, tmp_path):
    other = RunFolder(tmp_path / "out", "v", "")
    other.create()
    with folder.lock(), other.lock():
        assert other.checkpoints != folder.checkpoints


def test_a_new_run_starts_anew(folder):
    assert start_step(folder, "") is None


def test_checkpoints_of_another_run_are_not_overwritten(folder):
    complete(folder, 100, 20)
    with pytest.raises(UserError, match=r"already holds checkpoints \(the newest at step 100\).*--resume_ckpt latest"):
        start_step(folder, "")


def test_latest_is_the_newest_by_number(folder):
    complete(folder, 100, 20, 9)
    assert start_step(folder, "latest") == 100


def test_latest_is_what_was_written_last_after_a_return_to_an_earlier_step(folder):
    complete(folder, 20, 40, 60)
    (folder.checkpoints / "latest").write_text("40\n")
    assert start_step(folder, "latest") == 40


@pytest.mark.parametrize("names", [b"80\n", b"", b"x", b"\xff", b"9" * 5000])
def test_latest_that_names_none_of_the_steps_is_the_newest_by_number_and_said(folder, names, capsys):
    complete(folder, 20, 40)
    (folder.checkpoints / "latest").write_bytes(names)
    assert start_step(folder, "latest") == 40
    assert "latest names no checkpoint: the highest step, 40, is taken" in capsys.readouterr().err


def test_latest_that_leads_nowhere_is_said(folder, capsys):
    complete(folder, 20, 40)
    (folder.checkpoints / "latest").symlink_to("gone")
    assert start_step(folder, "latest") == 40
    assert "latest names no checkpoint" in capsys.readouterr().err


def test_latest_that_is_a_folder_is_refused(folder):
    complete(folder, 20)
    (folder.checkpoints / "latest").mkdir()
    with pytest.raises(UserError, match="latest is a folder: no checkpoint could be named in it; move it away"):
        start_step(folder, "latest")


def test_latest_with_none_there_starts_anew(folder):
    assert start_step(folder, "latest") is None


def test_unfinished_superseded_and_foreign_folders_are_no_checkpoints(folder):
    complete(folder, 5)
    for name in (".8.partial", "7.superseded-1", "notes", "²"):
        (folder.checkpoints / name).mkdir()
    assert folder.steps() == [5]
    assert start_step(folder, "latest") == 5


def test_a_step_can_be_chosen(folder):
    complete(folder, 5, 10)
    assert start_step(folder, "5") == 5


def test_a_step_that_is_not_there_lists_those_that_are(folder):
    complete(folder, 5, 10)
    with pytest.raises(UserError, match=r"has no checkpoint of step 7 \(it has: 5, 10\)"):
        start_step(folder, "7")


@pytest.mark.parametrize("wrong", ["last", "-1", "5.0", "5/", "²"])
def test_something_else_than_a_step_is_refused(folder, wrong):
    with pytest.raises(UserError, match='resume_ckpt must be a step or "latest"'):
        start_step(folder, wrong)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"output_dir: cannot create .*/out/checkpoints/u: Not a directory"):
        RunFolder(tmp_path / "out", "u", "").create()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"output_dir: cannot create /proc/"):
        RunFolder(Path("/proc/fm9g"), "u", "").create()


def test_no_steps_before_the_folder_exists(tmp_path):
    assert RunFolder(tmp_path / "none", "u", "").steps() == []
