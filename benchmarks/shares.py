#!/usr/bin/env python
"""How far the shares that a run reads are off those asked for, by windows of steps.

    python benchmarks/shares.py [--rows-per-step 4] [--steps 640]

The lanes are a run's; the documents are sizes alone, in rows, geometrically distributed (`=`: all the same). The table
gives points of share, the worst of all windows and datasets and the root mean square of the worst dataset, and beside
them what it would be if each row were a dataset's by lot.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.corpora import SizedCorpus, deviations, sizes, tokens_by_step

ROW, SEED = 64, 1
WINDOWS = (1, 4, 16, 64)
SHARES = [[0.6, 0.4], [0.9, 0.1], [0.98, 0.02], [0.5, 0.3, 0.2]]
LENGTHS: list[list[float]] = [[0.03], [0.1], [1], [10], [250], [10, 0.1], [0.1, 250]]


def measured(shares: list[float], lengths: list[float], spread: str, rows: int, steps: int) -> str:
    corpora = [
        SizedCorpus(f"task{i}", share, sizes(lengths[i % len(lengths)] * ROW, spread, SEED + i))
        for i, share in enumerate(shares)
    ]
    tokens = tokens_by_step(corpora, rows, steps, SEED, ROW)
    off = [100 * deviations(tokens, shares, window) for window in WINDOWS]
    return " | ".join(f"{np.abs(o).max():5.1f} {np.sqrt((o**2).mean(axis=0)).max():5.1f}" for o in off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument("--steps", type=int, default=640)
    options = parser.parse_args()
    columns = " | ".join(f"{window} steps".rjust(11) for window in WINDOWS)
    print(f"{'shares':15} {'documents, rows':15} | {columns}\n{'':31} | " + " | ".join(["worst   rms"] * len(WINDOWS)))
    for shares in SHARES:
        name = " ".join(f"{share:g}" for share in shares)
        for lengths in LENGTHS:
            for spread in ("same", "geometric") if lengths == [250] else ("geometric",):
                found = measured(shares, lengths, spread, options.rows_per_step, options.steps)
                of = " ".join(f"{length:g}" for length in lengths) + (" =" if spread == "same" else "")
                print(f"{name:15} {of:15} | {found}", flush=True)
        lot = [100 * max(math.sqrt(s * (1 - s) / (w * options.rows_per_step)) for s in shares) for w in WINDOWS]
        print(f"{name:15} {'by lot':15} | " + " | ".join(f"      {chance:5.1f}" for chance in lot))


if __name__ == "__main__":
    main()
