"""The loader's speed beside that of another commit, for `loader.py --against`."""

import sys
from pathlib import Path

import numpy as np
from common import ROOT, Contestant, tree_of
from loader_corpus import SEED, train_on, write_corpus

from fm9g.data.index.build import build

WORDS_A_RECORD = {"short": (20, 120), "long": (300, 1200)}
RECORDS = {"short": 20_000, "long": 4000}
PAIRS = 6  # of processes: how memory happens to lie makes one faster than another, by some hundredths
TURNS, WARM_UP = 20, 3  # of each process
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
    return {{"tokens": tokens, "seconds": time.process_time() - started}}

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
        found = [ratio for _ in range(PAIRS) for ratio in ratios(trees, folder / name, tokenizer)]
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
        print(f"{name} documents: {middle:.3f} of the speed of {commit} (quartiles {low:.3f}, {high:.3f})", flush=True)


def ratios(trees: tuple[Path, Path], dataset: Path, tokenizer: Path) -> list[float]:
    """Of each turn of a pair of processes, the speed of the first tree as a part of that of the second."""
    sides = [
        Contestant([sys.executable, "-c", _SIDE, *map(str, (tree / "benchmarks", tree, dataset, tokenizer))])
        for tree in trees
    ]
    found = []
    for turn in range(WARM_UP + TURNS):
        order = (0, 1) if turn % 2 else (1, 0)
        results = {side: sides[side].turn() for side in order}
        if results[0]["tokens"] != results[1]["tokens"]:
            sys.exit("the two streams differ")
        if turn >= WARM_UP:
            found.append(results[1]["seconds"] / results[0]["seconds"])
    for side in sides:
        side.end()
    return found
