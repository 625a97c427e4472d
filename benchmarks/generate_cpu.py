#!/usr/bin/env python
"""Generation speed on the CPU: beside transformers' generate, and with the cache beside without.

    python benchmarks/generate_cpu.py [--rounds 5]

The same weights on both sides, greedy, one thread, in one process, in turn; tokens per second of the processor, of each
side at its fastest, since others on the machine make a turn slower and never faster; the ratio of the two, and the
median of the ratios of pairs of turns. Whether they say the same is checked on the way.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHAPE: dict[str, Any] = {
    **{"vocab_size": 8192, "dim_model": 384, "num_heads": 6, "num_kv_heads": 2, "dim_head": 64},
    **{"dim_ff": 1024, "num_layers": 8, "max_length": 2048, "dtype": "float32", "tie_lm_head": True},
}


class Case(NamedTuple):
    """Rows, tokens of each prompt, and new tokens."""

    rows: int
    prompt: int
    new: int


CASES = (Case(1, 32, 128), Case(8, 32, 128), Case(8, 256, 64), Case(1, 16, 512))
LONG = CASES[-1]


def prompts(case: Case) -> list[list[int]]:
    """Rows of one length, so that the peer needs no padding."""
    return [[(7 * row + 31 * place) % 8000 + 100 for place in range(case.prompt)] for row in range(case.rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side (%(default)s)")
    rounds = parser.parse_args().rounds
    os.environ["FM9G_BACKEND"] = "cpu"
    import torch

    from fm9g import runtime
    from fm9g.generation.engine import Engine, continued
    from fm9g.generation.sampling import Sampling
    from fm9g.model.config import ModelConfig
    from fm9g.model.decoder import Decoder
    from fm9g.runtime.held import held

    runtime.initialize(seed=1)
    torch.set_num_threads(1)
    model = Decoder(ModelConfig(**SHAPE))
    runtime.bmt.init_parameters(model)
    peer = _peer(model)
    engine = Engine(model)

    def ours(case: Case) -> list[list[int]]:
        return continued(engine.generate(prompts(case), (), case.new, Sampling()), case.rows)

    def theirs(case: Case) -> list[list[int]]:
        given = torch.tensor(prompts(case))
        found = peer.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=case.new, do_sample=False, pad_token_id=0
        )
        return [row[case.prompt :] for row in found.tolist()]

    def uncached(case: Case) -> list[list[int]]:
        rows = prompts(case)
        with torch.no_grad():
            for _ in range(case.new):
                tokens = torch.tensor([token for row in rows for token in row])
                chosen = model.next_logits(tokens, model.context([len(row) for row in rows])).argmax(-1).tolist()
                rows = [[*row, token] for row, token in zip(rows, chosen, strict=True)]
        return [row[case.prompt :] for row in rows]

    with held(model):
        print(f"{'rows':>4} {'prompt':>6} {'new':>4} {'tokens/s':>9} {'peer':>18} {'tokens/s':>9} {'ratio':>6} pairs")
        for case in CASES:
            compare(case, "transformers", ours, theirs, rounds)
        compare(LONG, "without the cache", ours, uncached, min(rounds, 3))


def compare(
    case: Case,
    name: str,
    ours: Callable[[Case], list[list[int]]],
    peer: Callable[[Case], list[list[int]]],
    rounds: int,
) -> None:
    """Print a line of the table."""
    assert ours(case) == peer(case), "they do not say the same"
    times = [(_seconds(lambda: ours(case)), _seconds(lambda: peer(case))) for _ in range(rounds)]
    count = case.rows * case.new
    speeds = [count / min(column) for column in zip(*times, strict=True)]
    pairs = statistics.median(second / first for first, second in times)
    shape = f"{case.rows:4} {case.prompt:6} {case.new:4}"
    print(f"{shape} {speeds[0]:9.1f} {name:>18} {speeds[1]:9.1f} {speeds[0] / speeds[1]:6.3f} {pairs:.3f}")


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _peer(model: Any) -> Any:
    """transformers' model with the same weights."""
    import transformers

    from tests.model.pairs import theirs

    transformers.logging.set_verbosity_error()
    peer = theirs(model, attn_implementation="sdpa")
    peer.generation_config.eos_token_id = None
    return peer


if __name__ == "__main__":
    main()
