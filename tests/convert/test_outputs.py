"""Outputs of conversions: what stands under their names when something fails, or when another one was quicker."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fm9g.convert.outputs import check_output_file, new_file, new_folder
from fm9g.errors import UserError
from tests.training.test_full_disk import full_disk

TELLING = ("a.json", "a.tokenizer.json", "a.lora.json")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def convert(path: Path, text: str, overwrite: bool = False, fails: Callable[[], None] = lambda: None) -> None:
    """What conversions do: an output that says `text`, beside files that say it, too."""
    check_output_file(path, overwrite)

    def describe() -> None:
        for name in TELLING:
            (path.parent / name).write_text(text)
            fails()

    with new_file(path, overwrite, describe) as temporary:
        temporary.write_text(text)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def broken() -> None:
    raise RuntimeError("any other")


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fails", [full, broken, interrupted])
@pytest.mark.parametrize("lying", [(), ("a.pt",), ("a.json",), ("a.pt", *TELLING)], ids=len)
def test_whatever_fails_all_that_was_there_stands(
    tmp_path: Path, lying: tuple[str, ...], fails: Callable[[], None]
) -> None:
    for name in lying:
        (tmp_path / name).write_text("old")
    with pytest.raises((UserError, RuntimeError, KeyboardInterrupt)):
        convert(tmp_path / "a.pt", "new", True, fails)
    assert contents(tmp_path) == dict.fromkeys(lying, "old")
    convert(tmp_path / "a.pt", "new", True)
    assert contents(tmp_path) == dict.fromkeys(("a.pt", *TELLING), "new")


@pytest.mark.parametrize("call", ["fsync_path", "os.link", "os.replace", "shutil.copy2", "tempfile.mkdtemp"])
def test_a_call_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    convert(tmp_path / "a.pt", "old")

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"fm9g.convert.outputs.{call}", fails)
    with contextlib.suppress(OSError):  # without hard links it goes another way
        convert(tmp_path / "a.pt", "new", True)
    monkeypatch.undo()
    said = "new" if call == "os.link" else "old"
    assert contents(tmp_path) == dict.fromkeys(("a.pt", *TELLING), said)


def test_a_full_disk_is_said_of_the_output(tmp_path: Path) -> None:
    convert(tmp_path / "a.pt", "old")
    with full_disk(100), pytest.raises(UserError, match=r"a\.pt: cannot be written: File too large: make room there"):
        convert(tmp_path / "a.pt", "n" * 200, True)
    with pytest.raises(UserError, match=r"a\.pt: cannot be written: No space left on device"):
        convert(tmp_path / "a.pt", "new", True, full)
    with (
        full_disk(100),
        pytest.raises(UserError, match="out: cannot be written: File too large") as raised,
        new_folder(tmp_path / "out", False) as folder,
    ):
        (folder / "config.json").write_text("n" * 200)
    assert "\n" not in str(raised.value) and "partial" not in str(raised.value)
    assert contents(tmp_path) == dict.fromkeys(("a.pt", *TELLING), "old")


KILLED = """
import os, pathlib, signal
from fm9g.convert.outputs import check_output_file, new_file
path = pathlib.Path("a.pt")
check_output_file(path, True)
def describe():
    pathlib.Path("a.json").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
with new_file(path, True, describe) as temporary:
    temporary.write_text("new")
"""


def test_a_kill_loses_nothing_and_pairs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(tmp_path / "a.pt", "old")
    root = str(Path(__file__).resolve().parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, check=False
    )
    assert killed.returncode == -9
    assert not (tmp_path / "a.pt").exists() and (tmp_path / "a.json").read_text() == "new"
    [aside] = tmp_path.glob(".a.pt.*.replaced")
    assert contents(aside) == dict.fromkeys(("a.pt", *TELLING), "old")
    [partial] = tmp_path.glob(".a.pt.*.partial")
    assert partial.read_text() == "new"
    convert(tmp_path / "a.pt", "newer", True)
    said = capsys.readouterr().err
    assert f"note: {aside} is what it was to replace" in said and f"note: {partial} is unfinished" in said
    assert contents(aside)["a.pt"] == "old"
    assert {name: (tmp_path / name).read_text() for name in ("a.pt", *TELLING)} == (
        dict.fromkeys(("a.pt", *TELLING), "newer")
    )


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_of_two_at_once_the_later_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no links")))
    path = tmp_path / "a.pt"
    check_output_file(path, False)

    def later() -> None:
        with new_file(path, False, broken) as temporary:
            temporary.write_text("later")
            convert(path, "quicker")

    with pytest.raises(UserError, match=r"a\.pt: another process has written it meanwhile"):
        later()
    assert contents(tmp_path) == dict.fromkeys(("a.pt", *TELLING), "quicker")


def test_a_file_that_comes_while_it_is_described_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    check_output_file(path, False)

    def comes() -> None:
        path.write_text("a copy of someone's")

    with (
        pytest.raises(UserError, match="another process has written it meanwhile"),
        new_file(path, False, comes) as temporary,
    ):
        temporary.write_text("later")
    assert contents(tmp_path) == {"a.pt": "a copy of someone's"}


def test_one_waits_while_another_is_put_in_place(tmp_path: Path) -> None:
    """So that no description of one lies beside the other."""
    started, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        assert go_on.wait(60)

    first = threading.Thread(target=convert, args=(tmp_path / "a.pt", "first", True, slow))
    second = threading.Thread(target=convert, args=(tmp_path / "a.pt", "second", True))
    first.start()
    assert started.wait(60)
    second.start()
    second.join(0.5)
    assert second.is_alive() and (tmp_path / "a.json").read_text() == "first"
    go_on.set()
    first.join(60)
    second.join(60)
    assert contents(tmp_path) == dict.fromkeys(("a.pt", *TELLING), "second")


def test_a_folder_that_comes_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    def convert_folder(text: str, overwrite: bool, between: Callable[[], None] = lambda: None) -> None:
        with new_folder(tmp_path / "out", overwrite) as folder:
            (folder / "config.json").write_text(text)
            between()

    with pytest.raises(UserError, match="out: another process has written it meanwhile"):
        convert_folder("later", False, lambda: convert_folder("quicker", False))
    assert contents(tmp_path / "out") == {"config.json": "quicker"}
    convert_folder("asked for", True)
    assert contents(tmp_path / "out") == {"config.json": "asked for"}
    with pytest.raises(RuntimeError):
        convert_folder("failing", True, broken)
    assert contents(tmp_path / "out") == {"config.json": "asked for"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
