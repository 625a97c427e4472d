"""What several benchmarks need. Other environments import it too: what those lack is imported where it is used."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TOKENS, SECONDS = 500_000, 1.0  # a turn
WARM_UP = 3  # turns that do not count
TEXTS_AT_ONCE = 16  # that a tokenizer is given: a little faster than one by one


def tree_of(commit: str, folder: Path) -> Path:
    """The files of a commit of this repository, in `folder`, which is made."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _rollup(pid: int, keys: tuple[str, ...]) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(keys))


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children, pages they share counted once each."""
    try:
        return sum(_rollup(one, ("Pss:",)) for one in [pid, *children_of(pid)])
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0


def worker_memory() -> float:
    """MB that are the own of this process's only child with the most of them: its loader's worker."""
    return max(_rollup(child, ("Private_Clean:", "Private_Dirty:")) for child in children_of(os.getpid())) / 1e6


def write_many_records(folder: Path, count: int) -> None:
    """An indexed dataset of `count` records of 16 bytes."""
    import google_crc32c
    import h5py

    from fm9g.data.index.dataset import RECORD, RECORDS

    line = b'{"output":"ab"}\n'
    checksum = google_crc32c.value(line[:-1])
    folder.mkdir()
    with h5py.File(folder / "index.h5", "w") as file:
        bounds = file.create_dataset("index", shape=(count + 1,), dtype="<i8")
        records = file.create_dataset(RECORDS, shape=(count,), dtype=RECORD)
        bounds[0] = 0
        for start in range(0, count, 1 << 22):
            entries = np.empty(min(1 << 22, count - start), dtype=RECORD)
            entries["end"] = np.arange(start + 1, start + len(entries) + 1) * len(line)
            entries["crc32c"] = checksum
            bounds[start + 1 : start + 1 + len(entries)] = entries["end"]
            records[start : start + len(entries)] = entries
    with (folder / "data.jsonl").open("wb") as data:
        for start in range(0, count, 1 << 20):
            data.write(line * min(1 << 20, count - start))
    (folder / "meta.json").write_text(json.dumps({"nlines": count, "nbytes": count * len(line), "language": "en"}))
    os.utime(folder / "index.h5")


class Meter:
    """Measures a stream of batches, given by their number of tokens."""

    def __init__(self, batches: Iterator[int]) -> None:
        self._batches = batches

    def __call__(self) -> dict[str, float]:
        """Tokens a second over the next TOKENS of them."""
        taken, started = 0, time.perf_counter()
        while taken < TOKENS:
            taken += next(self._batches)
        return {"tokens_per_second": taken / (time.perf_counter() - started), "worker_mb": worker_memory()}


def rates(documents: Iterator[str], at_once: int) -> dict[str, list[float]]:
    """Documents a second, of `at_once` at a time, for SECONDS."""
    found = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        count = sum(1 for _, text in zip(range(at_once), documents, strict=False) if text)
        found.append(count / (time.perf_counter() - started))
    return {"rates": found}


def serve(measure: Callable[[], dict[str, Any]]) -> None:
    """Measure each time a line comes in, and print the result: so several processes can take turns."""
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


class Contestant:
    """A process that measures one loader whenever it is its turn, and is stopped, with its workers, when it is not."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def turn(self) -> dict[str, Any]:
        """One measurement."""
        assert self._process.stdin and self._process.stdout
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print things
                os.killpg(self._process.pid, signal.SIGSTOP)
                return json.loads(line)
        sys.exit(f"{' '.join(self._command)} has ended")

    def end(self) -> None:
        """End it."""
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.communicate()


def compared(commands: list[list[str]], pairs: int, turns: int) -> str:
    """The speed of the first of two programs as a part of the second's: of turns at their fastest, and the quartiles of
    paired ones.

    Each prints, when it is its turn, its `work`, which must be the other's, and the `seconds` that it took. They take
    turns, one stopped while the other runs, in `pairs` pairs of processes: how memory happens to lie makes one process
    faster than another by some hundredths. All that disturbs a turn makes it longer, and a turn is the same work in
    each process; so the sum of each one's shortest time is what the programs take themselves.
    """
    seconds = np.array([_seconds(commands, turns) for _ in range(pairs)])  # [pairs, turns, sides]
    ours, other = seconds.min(axis=0).sum(axis=0)
    low, middle, high = np.quantile(seconds[..., 1] / seconds[..., 0], [0.25, 0.5, 0.75])
    return f"{other / ours:.3f} (in pairs {middle:.3f}, quartiles {low:.3f}, {high:.3f})"


def _seconds(commands: list[list[str]], turns: int) -> list[tuple[float, float]]:
    """What each turn took the two sides, in a pair of processes."""
    sides, found = [Contestant(command) for command in commands], []
    for turn in range(WARM_UP + turns):
        order = (0, 1) if turn % 2 else (1, 0)
        results = {side: sides[side].turn() for side in order}
        if results[0]["work"] != results[1]["work"]:
            sys.exit(f"the two did not do the same: {results[0]['work']} and {results[1]['work']}")
        if turn >= WARM_UP:
            found.append((results[0]["seconds"], results[1]["seconds"]))
    for side in sides:
        side.end()
    return found
