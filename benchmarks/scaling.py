#!/usr/bin/env python
"""Scale on paper: a step's time, tokens a second and MFU against nodes, and what a few CPU ranks say of the model.

    python benchmarks/scaling.py [--model 7b] [--nodes 1,8,64] [--batch 1024] [--network 200]
    python benchmarks/scaling.py --here
    python benchmarks/scaling.py --published

The formulas are in benchmarks/scaling_model.py, one function a term; docs/scaling.md says what they assume. Bandwidths
are those of a GPU in one direction.

With --here: what matrix products, memory and collectives reach on this machine, with 1, 2 and 4 ranks, the step of a
small decoder as the model makes it of that, and beside it what the step takes. With --published: beside a measurement
of others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scaling_here import check
from benchmarks.scaling_model import Gpus, Plan, Step, fastest, memory, mfu, rows_that_hide, step
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import num_parameters

SHAPES = {  # of Llama 2 (https://arxiv.org/abs/2307.09288)
    "7b": ModelConfig(vocab_size=32000, dim_model=4096, num_heads=32, num_layers=32, dim_ff=11008),
    "70b": ModelConfig(vocab_size=32000, dim_model=8192, num_heads=64, num_kv_heads=8, num_layers=80, dim_ff=28672),
}
TENSOR_PARALLEL = (1, 2, 4, 8)
SHORT_TO_LONG = (1024, 2048, 4096, 8192)  # tokens of the one row of a rank and micro-step
LONG = 131_072
NETWORKS = (50e9, 25e9, 12.5e9)
# Llama 3.1 8B, FSDP, 2 rows of 8,192 tokens a GPU on H100s with 400 Gb/s each: GPUs, tokens/s a GPU without and with
# torch.compile (tables 1 and 3 of https://github.com/pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md)
PUBLISHED_SHAPE = ModelConfig(
    vocab_size=128256, dim_model=4096, num_heads=32, num_kv_heads=8, num_layers=32, dim_ff=14336
)
PUBLISHED = ((8, 5762, 6667), (128, 5605, 6514))


def steady_table(config: ModelConfig, machine: Gpus, nodes: list[int]) -> Iterator[str]:
    """One row a rank and micro-step, and one micro-step, so that the batch grows with the nodes."""
    yield "one row a GPU, of so many tokens; one micro-step: tokens/s a GPU and MFU"
    yield "nodes  GPUs" + "".join(f"{length:>16,}" for length in SHORT_TO_LONG)
    for count in nodes:
        ranks = count * machine.per_node
        cells = []
        for length in SHORT_TO_LONG:
            found = fastest(config, machine, ranks, ranks, length)
            cells.append("memory" if found is None else _rate(*found, machine))
        yield f"{count:5} {ranks:5}" + "".join(f"{cell:>16}" for cell in cells)


def batch_table(config: ModelConfig, machine: Gpus, nodes: list[int], batch: int, length: int) -> Iterator[str]:
    """A batch that stays as it is, however many nodes share it."""
    yield f"{batch:,} rows of {length:,} tokens a step, by tp_size: seconds a step and MFU"
    yield "nodes  GPUs" + "".join(f"{tp:>16}" for tp in TENSOR_PARALLEL)
    for count in nodes:
        ranks = count * machine.per_node
        cells = []
        for tp in TENSOR_PARALLEL:
            found = fastest(config, machine, ranks, batch, length, tp)
            if found is None:
                cells.append(
                    "memory" if batch % (ranks // tp) == 0 else "few rows" if batch < ranks // tp else "uneven"
                )
            else:
                plan, took = found
                cells.append(f"{took.seconds:.4g} {mfu(plan, machine.peak, took.seconds):6.1%}")
        yield f"{count:5} {ranks:5}" + "".join(f"{cell:>16}" for cell in cells)


def hiding_table(config: ModelConfig, nodes: list[int], machine: Gpus, length: int) -> Iterator[str]:
    """How much a rank must have to compute while a block's weights travel."""
    yield f"tokens a GPU and micro-step (of rows of {length:,}) that hide ZeRO-3, by Gb/s of network a GPU"
    yield "nodes  GPUs" + "".join(f"{network * 8e-9:>9.0f}" for network in NETWORKS)
    for count in nodes:
        cells = []
        for network in NETWORKS:
            among = Gpus(**{**vars(machine), "network": network})
            plan = Plan(config, count * machine.per_node, 1, length)
            cells.append(f"{rows_that_hide(plan, among) * length:>9,.0f}")
        yield f"{count:5} {count * machine.per_node:5}" + "".join(cells)


def long_table(config: ModelConfig, machine: Gpus) -> Iterator[str]:
    """Rows whose activations are what memory is spent on."""
    ranks = 8 * machine.per_node
    yield f"one row of {LONG:,} tokens a group on 8 nodes, use_checkpoint: GB and tokens/s a GPU, MFU"
    for tp in TENSOR_PARALLEL:
        plan = Plan(config, ranks, 1, LONG, tp=tp, recompute=True)
        need, took = memory(plan), step(plan, machine)
        fits = _rate(plan, took, machine) if need <= machine.usable else "more than there is"
        yield f"tp_size {tp}: {need / 1e9:6.0f}   {fits}"


def _rate(plan: Plan, took: Step, machine: Gpus) -> str:
    """Tokens a second and GPU, and MFU."""
    return f"{plan.tokens / plan.ranks / took.seconds:,.0f} {mfu(plan, machine.peak, took.seconds):6.1%}"


def published() -> None:
    """What the model makes of a measurement of others, whose first row gives one number, the part of the peak."""
    print("Llama 3.1 8B, 2 rows of 8,192 tokens a GPU: tokens/s a GPU as measured (torchtitan, H100), and modelled")
    for column, name in ((1, "eager"), (2, "compiled")):
        attained = _attained(PUBLISHED[0][0], PUBLISHED[0][column])
        machine, rates = Gpus(attained=attained), []
        for line in PUBLISHED:
            plan = Plan(PUBLISHED_SHAPE, line[0], 2, 8192)
            rates.append(plan.tokens / plan.ranks / step(plan, machine).seconds)
            print(f"{name:9} {line[0]:4} GPUs  {line[column]:6,}  {rates[-1]:6,.0f}")
        print(f"{name:9} kept       {PUBLISHED[1][column] / PUBLISHED[0][column]:6.3f}  {rates[1] / rates[0]:6.3f}")


def _attained(ranks: int, measured: float) -> float:
    """The part of the peak with which the model comes to a measured rate, found by halving."""
    low, high = 0.01, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        plan = Plan(PUBLISHED_SHAPE, ranks, 2, 8192)
        fast = plan.tokens / ranks / step(plan, Gpus(attained=middle)).seconds > measured
        low, high = (low, middle) if fast else (middle, high)
    return low


def tables(arguments: argparse.Namespace) -> None:
    """Print what is asked for of each model."""
    machine = Gpus(
        peak=arguments.peak * 1e12,
        attained=arguments.attained,
        nvlink=arguments.nvlink * 1e9,
        network=arguments.network * 1e9 / 8,
        links_attained=arguments.links_attained,
        memory=arguments.memory * 1e9,
        per_node=arguments.gpus,
    )
    for name in ("attained", "links_attained"):
        if not 0 < getattr(arguments, name) <= 1:
            sys.exit(f"error: {name} is a part, above 0 and at most 1, not {getattr(arguments, name):g}")
    for name in arguments.model.split(","):
        if name not in SHAPES:
            sys.exit(f"error: model {name!r} is none of {', '.join(SHAPES)}")
    nodes = [int(count) for count in arguments.nodes.split(",")]
    for name in arguments.model.split(","):
        config = SHAPES[name]
        print(f"{name}: {num_parameters(config):,} parameters, {config.num_layers} layers of {config.dim_model}")
        for table in (
            steady_table(config, machine, nodes),
            batch_table(config, machine, nodes, arguments.batch, arguments.length),
            hiding_table(config, nodes, machine, arguments.length),
            long_table(config, machine),
        ):
            print("\n".join(["", *table]), flush=True)
        print()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Gpus()
    parser.add_argument("--model", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--nodes", default="1,2,4,8,16,32,64,128")
    parser.add_argument("--gpus", type=int, default=default.per_node, help="of a node")
    parser.add_argument("--batch", type=int, default=256, help="rows of a step in the second table")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row in the second and third table")
    parser.add_argument("--peak", type=float, default=default.peak / 1e12, help="TFLOP/s of a GPU")
    parser.add_argument("--attained", type=float, default=default.attained, help="the part of it that blocks reach")
    parser.add_argument("--nvlink", type=float, default=default.nvlink / 1e9, help="GB/s of a GPU within a node")
    parser.add_argument("--network", type=float, default=default.network * 8e-9, help="Gb/s of a GPU between nodes")
    parser.add_argument("--links-attained", type=float, default=default.links_attained, help="the part of both")
    parser.add_argument("--memory", type=float, default=default.memory / 1e9, help="GB of a GPU")
    parser.add_argument("--here", action="store_true", help="check the model on this machine, in a minute or two")
    parser.add_argument("--published", action="store_true", help="check it against a measurement of others")
    arguments = parser.parse_args()
    if arguments.here:
        check()
    elif arguments.published:
        published()
    else:
        tables(arguments)


if __name__ == "__main__":
    main()
