#!/usr/bin/env python
"""Training speed on the CPU against a plain transformers loop over a model of the same size.

    python benchmarks/train_cpu.py [--steps 8] [--rounds 3]

Both train on the same packed rows in one process tree: each round runs one process of ours and one of the peer, in
turn, and the table gives the median over the rounds. The ratio is ours / transformers in tokens per second.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHAPES = {
    "tiny (7 M)": {"vocab_size": 8192, "dim_model": 256, "num_heads": 4, "num_layers": 6, "dim_ff": 704},
    "40 M": {"vocab_size": 16384, "dim_model": 512, "num_heads": 8, "num_layers": 8, "dim_ff": 1536},
}
ROW_LENGTH, ROWS, DOCUMENT = 256, 4, 64


def ours(shape: dict[str, int], steps: int) -> float:
    """Seconds per step of Decoder, BMTrain's optimizer manager and clipping."""
    import torch

    from fm9g import runtime
    from fm9g.model.config import ModelConfig
    from fm9g.model.decoder import Decoder
    from fm9g.model.packed import Packed

    runtime.initialize(seed=1)
    model = Decoder(ModelConfig(**shape, dtype="float32", tie_lm_head=True, max_length=ROW_LENGTH))
    runtime.bmt.init_parameters(model)
    optimizer = runtime.bmt.optim.AdamOptimizer(model.parameters(), lr=1e-3, weight_decay=0.1)
    manager = runtime.bmt.optim.OptimManager(grad_scale=1)
    manager.add_optimizer(optimizer)
    places = ROWS * ROW_LENGTH
    packed = Packed.from_lengths([DOCUMENT] * (places // DOCUMENT), torch.device("cpu"))
    tokens = torch.randint(0, shape["vocab_size"], (places + 1,))

    def step() -> None:
        manager.zero_grad()
        total, _ = model.loss(tokens[:-1], tokens[1:], packed)
        manager.backward(total / places)
        manager.clip_grad_norm(optimizer.param_groups, 1.0)
        manager.step()

    return seconds_per_step(step, steps)


def transformers_loop(shape: dict[str, int], steps: int) -> float:
    """Seconds per step of LlamaForCausalLM, torch.optim.AdamW and clipping; rows are not cut at documents."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["dim_model"],
            num_attention_heads=shape["num_heads"],
            num_hidden_layers=shape["num_layers"],
            intermediate_size=shape["dim_ff"],
            tie_word_embeddings=True,
            attn_implementation="sdpa",
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    tokens = torch.randint(0, shape["vocab_size"], (ROWS, ROW_LENGTH))

    def step() -> None:
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return seconds_per_step(step, steps)


def seconds_per_step(step, steps: int) -> float:
    """The fastest of `steps` after one to warm up: other work on the machine only ever adds."""
    step()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)


def measured(who: str, name: str, steps: int) -> float:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--steps", str(steps), "--side", who, "--shape", name]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="timed steps in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side, in turn")
    parser.add_argument("--side", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--shape", choices=tuple(SHAPES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run = ours if arguments.side == "ours" else transformers_loop
        print(json.dumps(run(SHAPES[arguments.shape], arguments.steps)))
        return
    print(f"rows of {ROW_LENGTH} tokens, {ROWS} a step, float32; tokens per second, median of {arguments.rounds}")
    print(f"{'model':12} {'ours':>10} {'transformers':>13} {'ratio':>7}")
    for name in SHAPES:
        pairs = [
            (measured("ours", name, arguments.steps), measured("transformers", name, arguments.steps))
            for _ in range(arguments.rounds)
        ]
        mine, peer = (ROWS * ROW_LENGTH / statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / us for us, theirs in pairs)
        print(f"{name:12} {mine:10,.0f} {peer:13,.0f} {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
