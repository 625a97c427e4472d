"""What stands at the output of a build: all or nothing, whatever is there and whatever happens meanwhile."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from fm9g import files
from fm9g.data.index import build as build_module
from fm9g.data.index import output_folder
from fm9g.data.index.build import Options, build
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.index.writer import IndexWriter
from fm9g.errors import UserError
from tests.support.builds import APPEND, FILES, OVERWRITE, dump, verified


def test_refused_sources(tmp_path, source):
    (tmp_path / "folder").mkdir()
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    cases = {
        "the input is empty": (empty, "set", "zh"),
        "no such file": (tmp_path / "absent.jsonl", "set", "zh"),
        "no file below it ends in .jsonl, .jsonl.gz, .jsonl.zst": (tmp_path / "folder", "set", "zh"),
        "did you mean 'en'": (source, "set", "eng"),
        "is a file": (source, "source.jsonl", "zh"),
    }
    for message, (path, output, language) in cases.items():
        with pytest.raises(UserError, match=message):
            build(path, tmp_path / output, language)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_source_inside_the_output(tmp_path, source, overwrite):
    build(source, tmp_path / "set", "zh")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for output in ("set", "link", "."):
        with pytest.raises(UserError, match="lies inside the output folder"):
            build(tmp_path / "set/data.jsonl", tmp_path / output, "zh", Options(overwrite=overwrite))
    assert len(IndexedDataset(tmp_path / "set")) == 10


def test_same_command_twice(tmp_path, source):
    assert build(source, tmp_path / "set", "zh") is not None
    times = {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "set").iterdir()}
    assert build(source, tmp_path / "set", "zh") is None
    assert times == {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "set").iterdir()}
    source.write_bytes(source.read_bytes()[:-1])  # the dataset has the newline that is missing here
    assert build(source, tmp_path / "set", "zh") is None


def test_occupied_output(tmp_path, source):
    (tmp_path / "set").mkdir()
    assert build(source, tmp_path / "set", "zh") is not None  # empty is as good as absent
    with pytest.raises(UserError, match=r"language 'zh'.*--overwrite"):
        build(source, tmp_path / "set", "en")
    other = tmp_path / "other.jsonl"
    other.write_bytes(source.read_bytes().replace("答".encode(), "達".encode()))
    with pytest.raises(UserError, match=r"other data.*--overwrite"):
        build(other, tmp_path / "set", "zh")
    (tmp_path / "set/index.h5").unlink()
    (tmp_path / "set/index").unlink()
    with pytest.raises(UserError, match=r"no complete dataset.*--overwrite"):
        build(source, tmp_path / "set", "zh")
    assert (tmp_path / "set/data.jsonl").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwrite(tmp_path, source, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(output_folder, "exchange", lambda first, second: False)
    build(source, tmp_path / "set", "zh")
    (tmp_path / "set/notes.txt").write_text("mine")
    source.write_bytes(dump({"output": "new"}))
    build(source, tmp_path / "set", "en", OVERWRITE)
    dataset = IndexedDataset(tmp_path / "set")
    assert [dataset.record(i) for i in range(len(dataset))] == [{"output": "new"}]
    assert {entry.name for entry in (tmp_path / "set").iterdir()} == FILES | {"notes.txt"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"set", "source.jsonl"}
    source.write_bytes(b"broken\n")
    with pytest.raises(UserError, match="line 1"):
        build(source, tmp_path / "set", "en", OVERWRITE)
    assert len(IndexedDataset(tmp_path / "set")) == 1  # the old one stands


def test_source_changed_while_read(tmp_path, source):
    def append(done, total):
        with open(source, "ab") as file:
            file.write(b"{}\n")
        os.utime(source, ns=(1, 1))

    with pytest.raises(UserError, match="changed while it was being indexed"):
        build(source, tmp_path / "set", "zh", progress=append)


LOOP = (
    "import sys; from fm9g.data.index.build import Options, build\nprint(1, flush=True)\n"
    "build(*sys.argv[1:4], Options(overwrite=len(sys.argv) > 4, workers=2))"
)


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_builder_leaves_all_or_nothing(tmp_path, overwrite):
    """At ten moments each; then the same command again makes the dataset, and nothing is left behind."""
    rng = random.Random(1)
    old, new, target = tmp_path / "old.jsonl", tmp_path / "new.jsonl", tmp_path / "out/set"
    old.write_bytes(dump({"output": "old"}) * 5)
    new.write_bytes(dump({"output": "new " * 20}) * 100_000)
    command = [sys.executable, "-c", LOOP, new, target, "en"] + ["overwrite"] * overwrite
    for killed_after in [None, *(rng.random() for _ in range(10)), None]:
        if overwrite:
            build(old, target, "en", OVERWRITE)
        elif target.exists():
            shutil.rmtree(target)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            process.stdout.read(2)  # imports are done
            if killed_after is None:
                started = time.perf_counter()
                assert process.wait() == 0
                usual = time.perf_counter() - started
            else:
                time.sleep(killed_after * usual)
                process.send_signal(signal.SIGKILL)
        if overwrite or target.exists():
            assert verified(target)
            assert len(IndexedDataset(target)) in (5, 100_000)
    assert len(IndexedDataset(target)) == 100_000
    assert [path.name for path in target.parent.iterdir()] == ["set"]


def test_append_makes_a_new_generation(tmp_path, source):
    first = build(source, tmp_path / "set", "zh")
    more = tmp_path / "more.jsonl"
    more.write_bytes(dump({"output": "more"}) * 3)
    meta = build(more, tmp_path / "set", "zh", APPEND)
    assert (tmp_path / "set/data.jsonl").read_bytes() == source.read_bytes() + more.read_bytes()
    assert verified(tmp_path / "set")
    assert [generation["records"] for generation in meta["generations"]] == [10, 13]
    assert IndexedDataset(tmp_path / "set").fingerprints.count(first["xxh3_128"]) == 1
    assert build(more, tmp_path / "set", "zh", APPEND) is None  # the same command twice
    assert len(IndexedDataset(tmp_path / "set")) == 13


def test_nothing_is_appended_to_damaged_data_or_another_language(tmp_path, source):
    build(source, tmp_path / "set", "zh")
    more = tmp_path / "more.jsonl"
    more.write_bytes(dump({"output": "more"}))
    with pytest.raises(UserError, match="has language 'zh', not 'en'"):
        build(more, tmp_path / "set", "en", APPEND)
    data = (tmp_path / "set/data.jsonl").read_bytes().replace("問".encode(), "間".encode(), 1)
    (tmp_path / "set/data.jsonl").write_bytes(data)
    os.utime(tmp_path / "set/data.jsonl", ns=(10**17, 10**17))
    with pytest.raises(UserError, match="is not what was indexed, so nothing is appended"):
        build(more, tmp_path / "set", "zh", APPEND)
    assert (tmp_path / "set/data.jsonl").read_bytes() == data


def test_two_builders_of_one_output(tmp_path, source):
    def second(done, total):
        with pytest.raises(UserError, match="another command is writing it"):
            build(source, tmp_path / "set", "zh")

    old = time.time() - 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_folder, "_just_made", lambda folder: False)
        build(source, tmp_path / "set", "zh", progress=second)
    assert verified(tmp_path / "set")
    assert old < (tmp_path / "set/index").stat().st_mtime


def test_what_a_killed_builder_left_is_removed(tmp_path, source, capsys):
    leftover = tmp_path / ".set.999999999.abcdef01.partial"
    leftover.mkdir()
    (leftover / "data.jsonl").write_text("half")
    kept = tmp_path / ".setting.1.partial"
    kept.mkdir()
    build(source, tmp_path / "set", "zh")
    assert not leftover.exists()
    assert kept.exists()
    assert "which a killed command left" in capsys.readouterr().err


def make_leftover(folder, name, lines, *, notes):
    """A folder of a dataset, as a builder of `set` has left it, with a file of the user's or without."""
    source = folder / "leftover.jsonl"
    source.write_bytes(lines)
    build(source, folder / "made", "zh")
    (folder / "made").rename(folder / name)
    if notes:
        (folder / name / "notes.txt").write_text("mine")


OLD, NEW, AT = dump({"output": "old"}), dump({"output": "new"}), ".set.999999999.abcdef01"


@pytest.mark.parametrize("killed", ["before the swap", "after the swap", "between two renames", "after two renames"])
def test_what_a_builder_killed_while_it_replaces_left_is_finished(tmp_path, source, killed):
    """The next command clears it away, and no file of the user's is lost on the way."""
    done = killed.startswith("after")
    if "renames" in killed:
        make_leftover(tmp_path, f"{AT}.new.old", OLD, notes=True)
    if killed != "after two renames":
        swapped = killed == "after the swap"
        make_leftover(tmp_path, f"{AT}.new", OLD if swapped else NEW, notes=swapped)
    if killed != "between two renames":
        make_leftover(tmp_path, "set", NEW if done else OLD, notes=not done)
    build(source, tmp_path / "set", "zh", OVERWRITE)
    assert verified(tmp_path / "set")
    assert (tmp_path / "set/notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"set", "source.jsonl", "leftover.jsonl"}


@pytest.mark.parametrize("ending", ["new", "new.old"])
def test_a_dataset_of_which_that_is_left_comes_back_and_is_not_overwritten_unasked(tmp_path, source, ending):
    make_leftover(tmp_path, f"{AT}.{ending}", OLD, notes=True)
    with pytest.raises(UserError, match=r"not empty.*--overwrite"):
        build(source, tmp_path / "set", "zh")
    assert IndexedDataset(tmp_path / "set").record(0) == {"output": "old"}
    assert (tmp_path / "set/notes.txt").exists()


def test_a_file_of_the_user_whose_name_is_taken_is_left_where_it_is(tmp_path, source, capsys):
    make_leftover(tmp_path, "set", NEW, notes=True)
    make_leftover(tmp_path, f"{AT}.new", OLD, notes=True)
    build(source, tmp_path / "set", "zh", OVERWRITE)
    assert [path.name for path in (tmp_path / f"{AT}.new").iterdir()] == ["notes.txt"]
    assert (tmp_path / "set/notes.txt").exists()
    assert f"{AT}.new/notes.txt stays there, since" in capsys.readouterr().err


def test_where_folders_cannot_be_locked_leftovers_stay(tmp_path, source, capsys, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    (tmp_path / f"{AT}.partial").mkdir()
    build(source, tmp_path / "set", "zh")
    build(source, tmp_path / "set", "en", OVERWRITE)
    assert {path.name for path in tmp_path.iterdir()} == {"set", "source.jsonl", f"{AT}.partial"}
    assert "was killed, or still runs: delete it if not" in capsys.readouterr().err


def test_a_full_disk_is_explained_and_changes_nothing(tmp_path, source, monkeypatch):
    build(source, tmp_path / "set", "zh")
    before = {entry.name: entry.read_bytes() for entry in (tmp_path / "set").iterdir()}

    def full(self, *arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "_write_h5", full)
        with pytest.raises(UserError, match="No space left on device: make room on that disk and run this again"):
            build(source, tmp_path / "set", "zh", OVERWRITE)
    with monkeypatch.context() as patch:
        patch.setattr(build_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
        with pytest.raises(UserError, match=r"GB are needed, 0\.0 GB are free"):
            build(source, tmp_path / "set", "zh", OVERWRITE)
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "set").iterdir()} == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"set", "source.jsonl"}
