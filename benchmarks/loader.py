#!/usr/bin/env python
"""The loader against the tokenizer alone, and against litdata, mosaicml-streaming and Hugging Face datasets.

    python benchmarks/loader.py [--rounds 3] [--rivals rivals/bin/python]
                                [--corpus FILE.jsonl --tokenizer DIR/tokenizer.json]

A corpus of 2 KB records and a byte-level BPE tokenizer are made here unless they are given. The environment of the
others is described in benchmarks/loader_rivals.py; without --rivals only ours is measured. Each measurement is a
process of its own, in turn within a round; the tables give medians over the rounds.

    tokens/s      documents shuffled, tokenized and packed by one worker process, as the training process gets them;
                  the tokenizer alone: the fastest call on the same documents, in memory, in one thread
    documents/s   texts alone, shuffled, in one process without a tokenizer
    checksums     documents/s of a folder with checksums against the same without, in turn in one process
    first batch   of a dataset of 100 million records
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from common import TEXTS_AT_ONCE, consume, rates, write_many_records

from fm9g.data.ahead import Ahead
from fm9g.data.build import Options, build
from fm9g.data.document import DocumentLine
from fm9g.data.loader import Loader, Plan, StepStream
from fm9g.data.mixture import Source
from fm9g.data.tokenizer import load_tokenizer
from fm9g.data.tokenizer_training import save_tokenizer, train_tokenizer

RIVALS = ("litdata", "mosaicml-streaming", "datasets")
RECORDS, RECORD_BYTES, WORDS = 50_000, 2000, 30_000
TRAINED_ON = 5000  # records
ROWS, ROW_LENGTH = 8, 4096
TOKENS = 2_000_000  # a measurement
SECONDS = 5.0  # a measurement of documents
MANY = 100_000_000
SEED = 1


def write_corpus(path: Path) -> None:
    """Records of about 2 KB, of made-up words whose frequency falls as that of real ones does (Zipf)."""
    r = np.random.default_rng(SEED)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = np.array(["".join(r.choice(letters, size)) for size in r.integers(1, 11, WORDS)])
    frequencies = 1 / np.arange(1, WORDS + 1)
    with path.open("w") as file:
        for _ in range(RECORDS):
            text = " ".join(r.choice(words, RECORD_BYTES // 4, p=frequencies / frequencies.sum()))
            file.write(json.dumps({"input": "", "output": text[: RECORD_BYTES - 30]}) + "\n")


def source_of(folder: Path) -> Source:
    return Source("corpus", folder, 1.0, None, True, "segment", None, {})


def line_of(folder: Path, tokenizer: Path) -> DocumentLine:
    return DocumentLine(source_of(folder), load_tokenizer(tokenizer), SEED, ROW_LENGTH)


def texts_of(line: DocumentLine, start: int = 0) -> Iterator[str]:
    """The documents' texts from a position on, without end."""
    for position in itertools.count(start):
        found = line.text(position)
        assert isinstance(found, tuple)
        yield found[2]


def batches_of(folder: Path, tokenizer: Path, batch_size: int = ROWS) -> Iterator[int]:
    """The numbers of tokens in the batches of one worker."""
    plan = Plan(SEED, ROW_LENGTH, batch_size, 1)
    stream = StepStream(plan, [source_of(folder)], str(tokenizer), range(10**9), {}, Ahead(1, 1))
    return (sum(batch.tokens) for batch in Loader(stream, 1, 2))


def tokenizer_alone(folder: Path, tokenizer: Path) -> dict[str, float]:
    """Tokens a second of the tokenizers library on the documents that the loader reads first."""
    import tokenizers

    line, raw = line_of(folder, tokenizer), tokenizers.Tokenizer.from_file(str(tokenizer))
    texts, taken = texts_of(line), 0
    seconds = 0.0
    while taken < TOKENS:
        lot = list(itertools.islice(texts, TEXTS_AT_ONCE))
        started = time.perf_counter()
        taken += sum(len(encoding.ids) for encoding in raw.encode_batch_fast(lot, add_special_tokens=False))
        seconds += time.perf_counter() - started
    return {"tokens_per_second": taken / seconds}


def checksum_cost(folder: Path, plain: Path, tokenizer: Path) -> dict[str, float]:
    """The part of the time of reading that goes into checksums: medians of short stretches, in turn."""
    lines = [line_of(one, tokenizer) for one in (folder, plain)]
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + 2 * SECONDS
    for start in itertools.count(0, 1000):
        for line, taken in zip(lines, times, strict=True):
            started = time.perf_counter()
            for position in range(start, start + 1000):
                line.text(position)
            taken.append(time.perf_counter() - started)
        if time.perf_counter() > end:
            break
    return {"cost": statistics.median(a / b - 1 for a, b in zip(*times, strict=True))}


def measured(name: str, folder: Path, plain: Path, tokenizer: Path) -> dict[str, Any]:
    """One measurement of ours, in this process."""
    if name == "alone":
        return tokenizer_alone(folder, tokenizer)
    if name == "tokens":
        return consume(lambda: batches_of(folder, tokenizer), TOKENS)
    if name == "documents":
        return {"rates": rates(texts_of(line_of(folder, tokenizer)), 1000, SECONDS)}
    return checksum_cost(folder, plain, tokenizer)


def first_batch(folder: Path, tokenizer: Path) -> None:
    """Print the time to the first batch of a run that has everything to import and to open."""
    program = (
        "import sys, time; started = time.perf_counter(); sys.path[:0] = sys.argv[1:3]\n"
        "import loader; imported = time.perf_counter()\n"
        "from pathlib import Path\n"
        "next(loader.batches_of(Path(sys.argv[3]), Path(sys.argv[4]), 1))\n"
        "print(f'{time.perf_counter() - imported:.2f} s to the first batch, after '\n"
        "      f'{imported - started:.2f} s of imports')"
    )
    here = [str(ROOT / "benchmarks"), str(ROOT)]
    subprocess.run([sys.executable, "-c", program, *here, str(folder), str(tokenizer)], check=True)


def run(command: list[str]) -> dict[str, Any]:
    """The result of a measurement: the last line that its process prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class Contest:
    """Measurements of ours and of the others on one corpus."""

    def __init__(self, folder: Path, corpus: Path, tokenizer: Path, rivals: str | None) -> None:
        self._corpus, self._tokenizer, self._python = corpus, tokenizer, rivals
        self.ours, self.plain, self._folder = folder / "ours", folder / "plain", folder
        build(corpus, self.ours, "en")
        build(corpus, self.plain, "en", Options(checksums=False))
        self._rivals = RIVALS if rivals else ()
        for name in self._rivals:
            self._rival(name, "prepare", 0)

    def _rival(self, name: str, measure: str, amount: float) -> dict[str, Any]:
        assert self._python is not None
        program, folder = str(ROOT / "benchmarks/loader_rivals.py"), str(self._folder / name)
        sizes = [str(ROWS), str(ROW_LENGTH), str(amount)]
        return run([self._python, program, name, measure, str(self._corpus), folder, str(self._tokenizer), *sizes])

    def _mine(self, measure: str) -> dict[str, Any]:
        paths = [str(path) for path in (self.ours, self.plain, self._tokenizer)]
        return run([sys.executable, __file__, "--measure", measure, *paths])

    def round(self) -> dict[str, dict[str, Any]]:
        """{name: what was measured} of everything, once."""
        found = {"tokenizer alone": self._mine("alone"), "ours": self._mine("tokens")}
        for name in self._rivals:
            found[name] = self._rival(name, "tokens", TOKENS)
        found["ours"] |= self._mine("documents") | self._mine("checksums")
        for name in self._rivals:
            found[name] |= self._rival(name, "documents", SECONDS)
        return found


def show(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Print the table."""
    heads = ("tokens/s", "of alone", "documents/s", "best", "worker MB")
    print(f"{'':20}" + "".join(f"{head:>13}" for head in heads))
    for name in rounds[0]:
        results = [one[name] for one in rounds]
        speeds = [result["tokens_per_second"] for result in results]
        ratio = statistics.median(
            one[name]["tokens_per_second"] / one["tokenizer alone"]["tokens_per_second"] for one in rounds
        )
        row = f"{name:20}{statistics.median(speeds):13,.0f}{ratio:13.2f}"
        if documents := [rate for result in results for rate in result.get("rates", ())]:
            memory = statistics.median(result["worker_mb"] for result in results)
            row += f"{statistics.median(documents):13,.0f}{max(documents):13,.0f}{memory:13.0f}"
        print(row)
    cost = statistics.median(one["ours"]["cost"] for one in rounds)
    print(f"checksums: {cost:+.1%} of the time of reading")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each measurement is made")
    parser.add_argument("--rivals", help="the Python of an environment with the other loaders")
    parser.add_argument("--corpus", type=Path, help='a jsonl file whose records hold their text in "output"')
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; its folder names the EOS token")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, *paths = arguments.measure
        print(json.dumps(measured(name, *map(Path, paths))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus, tokenizer = arguments.corpus, arguments.tokenizer
        if corpus is None:
            corpus = folder / "corpus.jsonl"
            write_corpus(corpus)
        if tokenizer is None:
            sample = folder / "sample.jsonl"
            with corpus.open() as lines, sample.open("w") as some:
                some.writelines(itertools.islice(lines, TRAINED_ON))
            tokenizer = folder / "tokenizer/tokenizer.json"
            tokenizer.parent.mkdir()
            save_tokenizer(train_tokenizer([sample], WORDS), tokenizer.parent)
        contest = Contest(folder, corpus, tokenizer, arguments.rivals)
        show([contest.round() for _ in range(arguments.rounds)])
        write_many_records(folder / "many", MANY)
        print(f"{MANY:,} records: ", end="", flush=True)
        first_batch(folder / "many", tokenizer)


if __name__ == "__main__":
    main()
