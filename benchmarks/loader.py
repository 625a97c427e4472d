#!/usr/bin/env python
"""The loader against the tokenizer alone, and against litdata, mosaicml-streaming and Hugging Face datasets.

    python benchmarks/loader.py [--turns 15] [--rivals rivals/bin/python]
                                [--corpus FILE.jsonl --tokenizer DIR/tokenizer.json]
    python benchmarks/loader.py --against COMMIT

A corpus of 2 KB records and a byte-level BPE tokenizer are made here unless they are given. The environment of the
others is described in benchmarks/loader_rivals.py; without --rivals only ours is measured. Each is measured in a
process of its own, all of them in turn, a second or so at a time; the table gives medians over the turns.

    tokens/s      documents shuffled, tokenized and packed by one worker process, as the training process gets them;
                  the tokenizer alone: the fastest call on the same documents, in memory, in one thread;
                  ours has one thread that tokenizes in that process (dataloader_num_threads 1), or two
    documents/s   texts alone, shuffled, in one process without a tokenizer
    checksums     documents/s of a folder with checksums against the same without, in turn in one process
    first batch   of a dataset of 100 million records

With --against, only the loader's speed beside that of another commit of this repository, on datasets of short and of
long documents: the processor's time for the same batches, of both sides in turn.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks.common import TEXTS_AT_ONCE, TOKENS, Contestant, Meter, rates, serve, write_many_records
from benchmarks.loader_against import compare
from benchmarks.loader_corpus import SEED, train_on, write_corpus
from fm9g.data.example import Example
from fm9g.data.index.build import Options, build
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.loader import Loader, Plan, StepStream
from fm9g.data.stream.mixture import MixtureEntry
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.tokens.tokenizer import load_tokenizer

ALONE, NAME = "tokenizer alone", "ours"
OURS = {ALONE: 0, NAME: 1, "ours, two threads": 2}  # threads that tokenize
RIVALS = ("litdata", "mosaicml-streaming", "datasets")
RECORDS, RECORD_BYTES = 50_000, 2000
ROWS, ROW_LENGTH = 8, 4096
CHECKSUM_SECONDS = 10.0
MANY = 100_000_000


def entry_of(folder: Path) -> MixtureEntry:
    return MixtureEntry("corpus", folder, 1.0, None, True, "segment", None, {})


def corpus_of(folder: Path, tokenizer: Path) -> Corpus:
    return Corpus(entry_of(folder), load_tokenizer(tokenizer), SEED, ROW_LENGTH)


def texts_of(corpus: Corpus) -> Iterator[str]:
    """The documents' texts, without end."""
    for first in itertools.count(0, TEXTS_AT_ONCE):
        for found in corpus.examples(range(first, first + TEXTS_AT_ONCE)):
            if isinstance(found, Example):
                yield from (text for _, text in found.texts[-1:])


def batches_of(folder: Path, tokenizer: Path, batch_size: int = ROWS, threads: int = 1) -> Iterator[int]:
    """The numbers of tokens in the batches of one worker."""
    plan = Plan(SEED, ROW_LENGTH, batch_size, 1)
    stream = StepStream(plan, [corpus_of(folder, tokenizer)], range(10**9), {}, Prefetcher(threads, 1))
    return (sum(batch.tokens) for batch in Loader(stream, 1, 2))


class TokenizerAlone:
    """Measures the tokenizers library on the documents that the loader reads."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        import tokenizers

        self._texts, self._tokenizer = (
            texts_of(corpus_of(folder, tokenizer)),
            tokenizers.Tokenizer.from_file(str(tokenizer)),
        )

    def __call__(self) -> dict[str, float]:
        """Tokens a second over the next TOKENS of them."""
        taken, seconds = 0, 0.0
        while taken < TOKENS:
            texts = list(itertools.islice(self._texts, TEXTS_AT_ONCE))
            started = time.perf_counter()
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            taken += sum(len(encoding.ids) for encoding in encodings)
            seconds += time.perf_counter() - started
        return {"tokens_per_second": taken / seconds}


def checksum_cost(folder: Path, plain: Path, tokenizer: Path) -> float:
    """The part of the time of reading that goes into checksums: medians of short stretches, in turn."""
    corpora = [corpus_of(one, tokenizer) for one in (folder, plain)]
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + CHECKSUM_SECONDS
    for start in itertools.count(0, 1000):
        for corpus, taken in zip(corpora, times, strict=True):
            started = time.perf_counter()
            corpus.examples(range(start, start + 1000))
            taken.append(time.perf_counter() - started)
        if time.perf_counter() > end:
            break
    return statistics.median(a / b - 1 for a, b in zip(*times, strict=True))


def serve_ours(name: str, measure: str, folder: Path, tokenizer: Path) -> None:
    """Measure one of OURS each time that it is asked for."""
    if measure == "documents":
        texts = texts_of(corpus_of(folder, tokenizer))
        serve(lambda: rates(texts, 1000))
    elif name == ALONE:
        serve(TokenizerAlone(folder, tokenizer))
    else:
        serve(Meter(batches_of(folder, tokenizer, threads=OURS[name])))


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


class Contest:
    """Measurements of ours and of the others on one corpus."""

    def __init__(self, folder: Path, corpus: Path, tokenizer: Path, rivals: str | None) -> None:
        self._corpus, self._tokenizer, self._python, self._folder = corpus, tokenizer, rivals, folder
        self._ours, self._plain = folder / "ours", folder / "plain"
        build(corpus, self._ours, "en")
        build(corpus, self._plain, "en", Options(checksums=False))
        self._rivals = RIVALS if rivals else ()
        for name in self._rivals:
            subprocess.run(self._rival(name, "prepare"), check=True, stdout=subprocess.DEVNULL)

    def _rival(self, name: str, measure: str) -> list[str]:
        assert self._python is not None
        paths = [str(self._corpus), str(self._folder / name), str(self._tokenizer)]
        program = str(ROOT / "benchmarks/loader_rivals.py")
        return [self._python, program, name, measure, *paths, str(ROWS), str(ROW_LENGTH)]

    def _mine(self, name: str, measure: str) -> list[str]:
        return [sys.executable, __file__, "--measure", name, measure, str(self._ours), str(self._tokenizer)]

    def measured(self, measure: str, turns: int) -> dict[str, list[dict[str, Any]]]:
        """{name: what was measured in each turn} of everything."""
        mine = [*OURS] if measure == "tokens" else [NAME]
        commands = {name: self._mine(name, measure) for name in mine}
        commands |= {name: self._rival(name, measure) for name in self._rivals}
        contestants = {name: Contestant(command) for name, command in commands.items()}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
        for turn, (name, contestant) in itertools.product(range(turns + 1), contestants.items()):
            result = contestant.turn()
            if turn:  # the first is to warm up
                found[name].append(result)
        for contestant in contestants.values():
            contestant.end()
        return found

    def checksum_cost(self) -> float:
        """See above."""
        return checksum_cost(self._ours, self._plain, self._tokenizer)


def show(tokens: dict[str, list[dict[str, Any]]], documents: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table."""
    heads = ("tokens/s", "of alone", "worker MB", "documents/s", "best")
    print(f"{'':20}" + "".join(f"{head:>13}" for head in heads))
    for name, results in tokens.items():
        speeds = [result["tokens_per_second"] for result in results]
        ratio = statistics.median(
            speed / alone["tokens_per_second"] for speed, alone in zip(speeds, tokens[ALONE], strict=True)
        )
        row = f"{name:20}{statistics.median(speeds):13,.0f}{ratio:13.2f}"
        if name != ALONE:
            row += f"{statistics.median(result['worker_mb'] for result in results):13.0f}"
        if name in documents:
            rates = [rate for result in documents[name] for rate in result["rates"]]
            row += f"{statistics.median(rates):13,.0f}{max(rates):13,.0f}"
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="how often each measurement is made")
    parser.add_argument("--against", metavar="COMMIT", help="a commit of this repository to compare with")
    parser.add_argument("--rivals", help="the Python of an environment with the other loaders")
    parser.add_argument("--corpus", type=Path, help='a jsonl file whose records hold their text in "output"')
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; its folder names the EOS token")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, measure, *paths = arguments.measure
        serve_ours(name, measure, *map(Path, paths))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.against:
            compare(arguments.against, folder)
            return
        corpus, tokenizer = arguments.corpus, arguments.tokenizer
        if corpus is None:
            corpus = folder / "corpus.jsonl"
            write_corpus(corpus, [RECORD_BYTES // 4] * RECORDS, RECORD_BYTES - 30)
        if tokenizer is None:
            tokenizer = train_on(corpus, folder)
        contest = Contest(folder, corpus, tokenizer, arguments.rivals)
        show(*(contest.measured(measure, arguments.turns) for measure in ("tokens", "documents")))
        print(f"checksums: {contest.checksum_cost():+.1%} of the time of reading")
        write_many_records(folder / "many", MANY)
        print(f"{MANY:,} records: ", end="", flush=True)
        first_batch(folder / "many", tokenizer)


if __name__ == "__main__":
    main()
