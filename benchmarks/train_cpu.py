#!/usr/bin/env python
"""Training speed on the CPU against a plain transformers loop over a model of the same size.

    python benchmarks/train_cpu.py [--steps 8] [--rounds 3]
    python benchmarks/train_cpu.py --against COMMIT

Both train on the same packed rows in one process tree: each round runs one process of ours and one of the peer, in
turn, and the table gives the median over the rounds. The ratio is ours / transformers in tokens per second.

With --against, ours beside that of another commit of this repository: the processor's time for the same steps, of both
sides in turn.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import compared, tree_of
from benchmarks.training_sides import in_own_process, ours, seconds_per_step, transformers_loop

SHAPES = {
    "tiny (7 M)": {"vocab_size": 8192, "dim_model": 256, "num_heads": 4, "num_layers": 6, "dim_ff": 704},
    "40 M": {"vocab_size": 16384, "dim_model": 512, "num_heads": 8, "num_layers": 8, "dim_ff": 1536},
}
ROW_LENGTH, ROWS, DOCUMENT = 256, 4, 64
DOCUMENTS = [DOCUMENT] * (ROWS * ROW_LENGTH // DOCUMENT)
AGAINST, PAIRS, TURNS = "tiny (7 M)", 4, 12  # the shape; pairs of processes, and turns of each of them

_SIDE = """
import json, os, sys, time
os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other would count as work
sys.path[:0] = [sys.argv[1] + "/benchmarks", sys.argv[1]]
from training_sides import ours
step = ours(json.loads(sys.argv[2]), json.loads(sys.argv[3]), "float32")
for _ in sys.stdin:
    started = time.process_time()
    step()
    print(json.dumps({"work": 1, "seconds": time.process_time() - started}), flush=True)
"""


def measured(side: str, name: str, steps: int) -> float:
    """Seconds per step of one side, in this process."""
    shape = {**SHAPES[name], "tie_lm_head": True}
    if side == "ours":
        step = ours(shape, DOCUMENTS, "float32")
    else:
        step = transformers_loop(shape, ROWS, ROW_LENGTH, "float32")
    return seconds_per_step(step, steps)


def compare(commit: str) -> None:
    """Print the speed of this tree's step as a part of that of another commit's."""
    with tempfile.TemporaryDirectory(prefix="train_cpu.") as folder:
        trees = (ROOT, tree_of(commit, Path(folder) / "tree"))
        words = [json.dumps({**SHAPES[AGAINST], "tie_lm_head": True}), json.dumps(DOCUMENTS)]
        commands = [[sys.executable, "-c", _SIDE, str(tree), *words] for tree in trees]
        print(f"{AGAINST}: {compared(commands, PAIRS, TURNS)} of the speed of {commit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="timed steps in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side, in turn")
    parser.add_argument("--side", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--shape", choices=tuple(SHAPES), help=argparse.SUPPRESS)
    parser.add_argument("--against", metavar="COMMIT", help="a commit of this repository to compare with")
    arguments = parser.parse_args()
    if arguments.against:
        compare(arguments.against)
        return
    if arguments.side:
        print(json.dumps(measured(arguments.side, arguments.shape, arguments.steps)))
        return
    print(f"rows of {ROW_LENGTH} tokens, {ROWS} a step, float32; tokens per second, median of {arguments.rounds}")
    print(f"{'model':12} {'ours':>10} {'transformers':>13} {'ratio':>7}")
    for name in SHAPES:
        pairs = [
            [in_own_process(__file__, arguments, side=side, shape=name) for side in ("ours", "transformers")]
            for _ in range(arguments.rounds)
        ]
        mine, peer = (ROWS * ROW_LENGTH / statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / us for us, theirs in pairs)
        print(f"{name:12} {mine:10,.0f} {peer:13,.0f} {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
