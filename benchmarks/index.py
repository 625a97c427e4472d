#!/usr/bin/env python
"""Indexing speed against a plain line-by-line builder and against `wc -lm`; opening 100 million records.

    python benchmarks/index.py [--megabytes 750] [--rounds 3] [--zh FILE.jsonl] [--en FILE.jsonl]

Two corpora, made here unless files are given: short Chinese lines and long English ones. Each round runs ours (with
validation and checksums, then without both), the plain builder and wc in turn, as processes of their own; the table
gives medians, and the ratios are medians over the rounds of plain / ours.
"""

import argparse
import json
import os
import random
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import ROOT, memory_of, write_many_records

BUILDER = str(ROOT / "tools/convert_json2index.py")
RECORDS_OPENED = 100_000_000
SAMPLE_SECONDS = 0.1  # memory is looked at so often: looking takes time of its own


def plain(source: str, out: str, language: str) -> None:
    """What a user would write: one pass, line by line, nothing validated and nothing made safe."""
    Path(out).mkdir()
    bounds, tokens = [0], 0.0
    with open(source, "rb") as lines, open(f"{out}/data.jsonl", "wb") as data, open(f"{out}/index", "w") as index:
        index.write("0\n")
        for line in lines:
            bounds.append(bounds[-1] + len(line))
            index.write(f"{bounds[-1]}\n")
            text = line.decode("utf-8")
            tokens += 0.7 * len(text) if language == "zh" else 1.5 * len(text.split(" "))
            data.write(line)
    with h5py.File(f"{out}/index.h5", "w") as file:
        file.create_dataset("index", data=bounds)
    count = len(bounds) - 1
    meta = {"language": language, "nlines": count, "nbytes": bounds[-1], "avg_token_per_line": tokens / count}
    Path(f"{out}/meta.json").write_text(json.dumps(meta))


def write_corpus(path: Path, language: str, megabytes: int) -> None:
    """Random text of the language's shape: lines of 20 to 120 Chinese characters, or of 100 to 900 English words."""
    r, block = random.Random(1), []
    common = [chr(0x4E00 + i) for i in range(3000)] if language == "zh" else ["word", "the", "of", "language", "it’s"]
    for _ in range(20_000 if language == "zh" else 1000):
        count = r.randint(20, 120) if language == "zh" else r.randint(100, 900)
        text = ("" if language == "zh" else " ").join(r.choices(common, k=count))
        block.append(json.dumps({"input": "", "output": text}, ensure_ascii=False) + "\n")
    data = "".join(block).encode("utf-8")
    with path.open("wb") as file:
        for _ in range(max(1, round(megabytes * 1e6 / len(data)))):
            file.write(data)


def timed(command: list[str], out: Path) -> tuple[float, float]:
    """(seconds, peak MB of the process) of a command that writes the folder `out`."""
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(["sync"], check=True)
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        peak, ended = 0, os.pidfd_open(process.pid)  # Popen.wait looks but every 50 ms
        while process.returncode is None:
            peak = max(peak, memory_of(process.pid))
            select.select([ended], [], [], SAMPLE_SECONDS)
            process.poll()
        seconds = time.perf_counter() - started
        os.close(ended)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, peak / 1e6


def compare(source: Path, language: str, folder: Path, rounds: int) -> None:
    """Print the rows of one corpus."""
    out, size = folder / "out", source.stat().st_size / 1e6
    ours = [sys.executable, BUILDER, "--path", str(source), "--language", language, "--output", str(out)]
    commands = {
        "ours": ours,
        "ours, no validation nor checksums": [*ours, "--no-validation", "--no-checksums"],
        "plain": [sys.executable, __file__, "--plain", str(source), str(out), language],
        "wc -lm": ["wc", "-lm", str(source)],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    peaks = dict.fromkeys(commands, 0.0)
    for _ in range(rounds):
        for name, command in commands.items():
            seconds, peak = timed(command, out)
            times[name].append(seconds)
            peaks[name] = max(peaks[name], peak)
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["plain"], taken, strict=True))
        middle = statistics.median(taken)
        print(f"{language:3} {name:36} {middle:7.2f} {size / middle:8.0f} {ratio:9.2f} {peaks[name]:8.0f}", flush=True)


def open_many(folder: Path) -> None:
    """Print time and memory of opening 100 million records, from the index alone of a sparse file."""
    target = folder / "many"
    write_many_records(target, RECORDS_OPENED)
    program = (
        "import resource, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from fm9g.data.index.dataset import IndexedDataset\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "started = time.perf_counter(); dataset = IndexedDataset(sys.argv[2]); opened = time.perf_counter() - started\n"
        "started = time.perf_counter(); dataset.record(len(dataset) // 2); read = time.perf_counter() - started\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(f'{len(dataset):,} records: opened in {opened * 1e3:.1f} ms, a record in the middle read in '\n"
        "      f'{read * 1e6:.0f} us, {(after - before) / 1024:.1f} MB more memory')"
    )
    subprocess.run([sys.executable, "-c", program, str(ROOT), str(target)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=750, help="size of each corpus that is made")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command")
    parser.add_argument("--zh", type=Path, help="a jsonl file to index as Chinese")
    parser.add_argument("--en", type=Path, help="a jsonl file to index as English")
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(*arguments.plain)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        head = ("", "", "seconds", "MB/s", "plain/it", "peak MB")
        print(f"{head[0]:3} {head[1]:36} {head[2]:>7} {head[3]:>8} {head[4]:>9} {head[5]:>8}")
        for language in ("zh", "en"):
            source = getattr(arguments, language)
            if source is None:
                source = folder / f"{language}.jsonl"
                write_corpus(source, language, arguments.megabytes)
            compare(source, language, folder, arguments.rounds)
        open_many(folder)


if __name__ == "__main__":
    main()
