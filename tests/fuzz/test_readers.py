"""Whatever a file holds: its reader reads it or says in a UserError what is wrong, soon and in little memory."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fm9g.errors import UserError
from tests.fuzz.mutations import damage
from tests.fuzz.readers import READERS, Reader

SECONDS = 30  # for one input of a kilobyte or two; most take some milliseconds
MEMORY = 1 << 30  # that the process may take on top of what it has
# inputs out of many whose damage once ended otherwise: bounds beyond the data, and a panic of Rust
FOUND = {
    "check": [2499, 4592, 5810, 8424],
    "tokenizer folder": [2430, 9188],
    "mixture": [588, 1748],
    "Hugging Face config": [1583],
    "safetensors": [732, 1025],
}
SAMPLE, SOAK = 150, 10_000  # inputs for each reader


Case = Callable[[Path], str]
"""Does something to one of the good files in a folder, and returns in words what."""


def damage_case(reader: Reader, name: str, number: int) -> Case:
    """Damage that depends on the reader's name and the number alone."""

    def apply(folder: Path) -> str:
        r = random.Random(f"{name}/{number}")
        path = r.choice(reader.files(folder))
        path.write_bytes(damage(path.read_bytes(), r, is_json=path.suffix == ".json"))
        return f"input {number}, which damages {path.relative_to(folder)}"

    return apply


def strange_case(reader: Reader, which: int, kind: str) -> Case:
    """Something else than a file in the place of one."""

    def apply(folder: Path) -> str:
        path = reader.files(folder)[which]
        path.unlink()
        STRANGE[kind](path)
        return f"{path.relative_to(folder)} as {kind}"

    return apply


STRANGE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "an empty file": Path.touch,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


def attempt(reader: Reader, good: Path, work: Path, case: Case) -> str | None:
    """Read one input; returns what came out that should not, in words."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "output").mkdir(parents=True)
    shutil.copytree(good, work / "input")
    what = case(work / "input")
    try:
        reader.read(work / "input", work / "output")
    except UserError:
        return None
    except BaseException:  # the very thing that is looked for, SystemExit and panics of Rust included
        return f"{what}:\n{traceback.format_exc(limit=-6)}"
    return None


def _read_them(reader: Reader, good: Path, work: Path, cases: Sequence[Case], first: int, answers: Connection) -> None:
    """The child: a process of its own, since a library written in C may die."""
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    for number in range(first, len(cases)):
        answers.send((number, attempt(reader, good, work, cases[number])))


def failures(reader: Reader, folder: Path, cases: Sequence[Case]) -> list[str]:
    """Feed a reader with inputs; returns what went wrong, in words."""
    good, found, done, context = folder / "good", [], 0, multiprocessing.get_context("fork")
    good.mkdir()
    reader.make(good)
    while done < len(cases):  # a child that dies is followed by another
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_read_them, args=(reader, good, folder / "work", cases, done, theirs))
        child.start()
        theirs.close()
        try:
            while done < len(cases):
                if not mine.poll(SECONDS):
                    found.append(f"case {done}: no end within {SECONDS} s")
                    break
                number, wrong = mine.recv()
                done, found = number + 1, found + [wrong] * (wrong is not None)
        except EOFError:
            child.join()
            found.append(f"case {done}: the process ended with {child.exitcode}")
        child.kill()
        child.join()
        done += done < len(cases)
    return found


def check(name: str, folder: Path, cases: Sequence[Case]) -> None:
    found = failures(READERS[name], folder, cases)
    assert not found, f"{name}: {len(found)} of {len(cases)} inputs:\n" + "\n".join(found[:5])


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(name, tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "output").mkdir()
    READERS[name].make(tmp_path / "good")
    READERS[name].read(tmp_path / "good", tmp_path / "output")


@pytest.mark.parametrize("name", READERS)
def test_nothing_but_a_user_error_comes_out(name, tmp_path):
    check(name, tmp_path, [damage_case(READERS[name], name, number) for number in range(SAMPLE // READERS[name].cost)])


@pytest.mark.parametrize("name", FOUND)
def test_what_many_inputs_once_found(name, tmp_path):
    check(name, tmp_path, [damage_case(READERS[name], name, number) for number in FOUND[name]])


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_and_not_waited_for(name, tmp_path):
    (tmp_path / "look").mkdir()
    READERS[name].make(tmp_path / "look")
    count = len(READERS[name].files(tmp_path / "look"))
    check(name, tmp_path, [strange_case(READERS[name], which, kind) for which in range(count) for kind in STRANGE])


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_nothing_but_a_user_error_comes_out_of_many(name, tmp_path):
    check(name, tmp_path, [damage_case(READERS[name], name, number) for number in range(SOAK // READERS[name].cost)])
