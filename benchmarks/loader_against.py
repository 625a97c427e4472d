"""The loader's speed beside that of another commit, for `loader.py --against`."""

import sys
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, compared, tree_of
from benchmarks.loader_corpus import SEED, train_on, write_corpus
from fm9g.data.index.build import build

WORDS_A_RECORD = {"short": (20, 120), "long": (300, 1200)}
RECORDS = {"short": 20_000, "long": 4000}
PAIRS = 6  # of processes: how memory happens to lie makes one faster than another, by some hundredths
TURNS = 20  # of each process
BATCHES = 2  # a turn, some tenths of a second: what else the machine does is then the same for both

_SIDE = f"""
import pathlib, sys, time
sys.path[:0] = sys.argv[1:3]
import loader
Loader = loader.Loader
loader.Loader = lambda stream, workers, prefetch: Loader(stream, 0, 0)  # in this process, whose time is counted
batches = loader.batches_of(*map(pathlib.Path, sys.argv[3:]))

def measure():
    started = time.process_time()
    tokens = sum(next(batches) for _ in range({BATCHES}))
    return {{"work": tokens, "seconds": time.process_time() - started}}

loader.serve(measure)
"""


def compare(commit: str, folder: Path) -> None:
    """Print the speed of this tree's loader as a part of that of another commit's."""
    trees, tokenizer = (ROOT, tree_of(commit, folder / "tree")), None
    for name, (least, most) in WORDS_A_RECORD.items():
        corpus = folder / f"{name}.jsonl"
        write_corpus(corpus, np.random.default_rng(SEED).integers(least, most, RECORDS[name]).tolist())
        build(corpus, folder / name, "en")
        tokenizer = tokenizer or train_on(corpus, folder)
        given = [(tree / "benchmarks", tree, folder / name, tokenizer) for tree in trees]
        commands = [[sys.executable, "-c", _SIDE, *map(str, words)] for words in given]
        print(f"{name} documents: {compared(commands, PAIRS, TURNS)} of the speed of {commit}", flush=True)
