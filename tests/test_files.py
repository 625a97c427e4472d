"""Files of the user's: what is there, and JSON that says where it is wrong."""

import os
import subprocess
from pathlib import Path

import pytest

from fm9g.errors import UserError, shown
from fm9g.files import read_json, require_file, user_path


def refused(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    return str(error.value)


def test_a_file_is_itself_a_link_to_it_too(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert require_file(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.symlink_to("gone"), "a link to gone, which is not there"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (Path.mkdir, "is a folder; give a file"),
        (os.mkfifo, "is a pipe; give a file"),
        (lambda path: path.symlink_to("/dev/null"), "is a device; give a file"),
    ],
)
def test_what_is_no_file_is_said(tmp_path, make, says):
    make(tmp_path / "x")
    assert refused(require_file, tmp_path / "x") == f"{tmp_path}/x: {says}"
    assert refused(require_file, tmp_path / "x" / "y") != ""


def test_a_name_that_no_file_can_have(tmp_path):
    assert refused(require_file, tmp_path / "a\0b").endswith("not a path: embedded null byte")


def test_an_open_pipe_is_for_readers_that_go_through_it_once():
    program = "import sys; from fm9g.files import require_file as f; print(f(sys.argv[1], sys.argv[2] == '1'))"
    script = f'python -c "{program}" <(echo) $0'
    for streamed, returncode in (("1", 0), ("0", 1)):
        result = subprocess.run(["bash", "-c", script, streamed], capture_output=True, text=True, timeout=60)
        assert result.returncode == returncode, result.stderr


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/x.json") == Path("/somewhere/x.json")
    assert user_path("x~/y") == Path("x~/y")
    assert "there is no home folder of that name" in refused(user_path, "~no-such-user/x")
    assert "File name too long" in refused(user_path, "x" * 300)
    assert "not a path" in refused(user_path, "a\0b")


def test_json_may_hold_numbers_of_any_length_but_no_key_twice_and_not_be_too_deep(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"n": ' + "9" * 5000 + "}")
    assert read_json(path) == {"n": float("inf")}
    path.write_text('{"a": {"lr": 1, "lr": 2}}')
    assert refused(read_json, path) == f"{path}: 'lr' is there twice in one object: remove one of them"
    path.write_text("[" * 100_000)
    assert refused(read_json, path) == f"{path}: not usable JSON: nested too deeply"


def test_what_a_user_gave_is_shown_in_a_line():
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 80
    assert shown(10**5000) == "a huge int"
