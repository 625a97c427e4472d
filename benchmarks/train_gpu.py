#!/usr/bin/env python
"""Training speed on a GPU against transformers over models of the same shapes, in bf16.

    python benchmarks/train_gpu.py [--shapes 1.3B,3B,7B] [--lengths 4096,16384] [--steps 8] [--profile FOLDER]

A step is one row of one document: forward, backward, clipping, AdamW. Ours keeps fp32 masters and moments. The peers
are transformers' Llama with its fastest attention that is installed, and torch's fused AdamW, once with weights and
moments in bf16 (half of our bytes, and updates that bf16 rounds away), once with both in fp32 under autocast (our
arithmetic). Every measurement has a process of its own, in turn. Rows from 16,384 tokens on recompute
activations on all sides. A 7B model's AdamW in fp32 does not fit one GPU of 80 GB: half of its layers stand for it.

MFU counts 6 FLOPs for each parameter but the input embedding and token, and the attention's in full or its causal
half; recomputation is not counted. "outside" is the share of a step in which no kernel ran. With --profile, the kernels
that took longest are listed in one file for each measurement.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_sides import (
    Step,
    in_own_process,
    ours,
    seconds_per_step,
    transformers_loop,
    wait_for_device,
)

SHAPES = {
    "toy": {"vocab_size": 512, "dim_model": 64, "num_heads": 2, "num_layers": 2, "dim_ff": 128},
    "1.3B": {"vocab_size": 32000, "dim_model": 2048, "num_heads": 16, "num_layers": 24, "dim_ff": 5504},
    "3B": {"vocab_size": 32000, "dim_model": 3072, "num_heads": 24, "num_layers": 24, "dim_ff": 8192},
    "7B": {"vocab_size": 32000, "dim_model": 4096, "num_heads": 32, "num_layers": 16, "dim_ff": 11008},
}
SIDES = ("ours", "bf16", "autocast")
RECOMPUTED_FROM = 16384
PROFILED_STEPS = 2


def make_step(side: str, shape: dict[str, Any], length: int) -> Step:
    """A training step of one side."""
    recompute = length >= RECOMPUTED_FROM
    if side == "ours":
        return ours(shape, [length], "bf16", recompute)
    weights = "bfloat16" if side == "bf16" else "float32"
    return transformers_loop(shape, 1, length, weights, side == "autocast", recompute)


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of (start, end) intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def share_outside_kernels(step: Step, profile: Path | None) -> float | None:
    """The share of some steps in which the GPU ran no kernel; None without a GPU. Writes the kernels to `profile`."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    on_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CUDA] if on_cuda else []
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, *activities]) as profiler:
        for _ in range(PROFILED_STEPS):
            step()
        wait_for_device()
    if profile is not None:
        by = "self_cuda_time_total" if on_cuda else "self_cpu_time_total"
        profile.write_text(profiler.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=80))
    on_device = (event for event in profiler.events() if event.device_type == DeviceType.CUDA)
    kernels = [event.time_range for event in on_device if not event.is_user_annotation]  # those span many kernels
    if not kernels:
        return None
    span = max(kernel.end for kernel in kernels) - min(kernel.start for kernel in kernels)
    return 1 - covered((kernel.start, kernel.end) for kernel in kernels) / span


def measure(side: str, shape: dict[str, Any], length: int, steps: int, profile: Path | None) -> dict[str, Any]:
    """Seconds a step, peak bytes and the share outside kernels of one side; {} where the GPU's memory is too small."""
    import torch

    try:
        step = make_step(side, shape, length)
        seconds = seconds_per_step(step, steps, warm_up=3)
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        return {"seconds": seconds, "bytes": peak, "outside": share_outside_kernels(step, profile)}
    except torch.cuda.OutOfMemoryError:
        return {}


def flops(shape: dict[str, Any], length: int, causal: bool) -> float:
    """Model FLOPs of a step of one document of `length` tokens."""
    from fm9g.model.config import ModelConfig
    from fm9g.training.throughput import model_flops

    config = ModelConfig(**shape)
    halves = 1 if causal else 2
    return model_flops(config, length, halves * length**2)


def line(name: str, side: str, shape: dict[str, Any], length: int, found: dict[str, Any], peak: float | None) -> str:
    """A row of the table."""
    start = f"{name:5} {length:7,} {side:9}"
    if not found:
        return f"{start} out of memory"
    used = [flops(shape, length, causal) / found["seconds"] / peak if peak else None for causal in (False, True)]
    shares = [f"{share:8.1%}" if share is not None else f"{'-':>8}" for share in (*used, found["outside"])]
    memory = f"{found['bytes'] / 2**30:8.1f}" if found["bytes"] else f"{'-':>8}"
    return f"{start} {length / found['seconds']:9,.0f} {shares[0]} {shares[1]} {memory} {shares[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1.3B,3B,7B", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--lengths", default="4096,16384", help="tokens in a row")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"of {', '.join(SIDES)}")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each measurement")
    parser.add_argument("--profile", type=Path, help="a folder for the lists of kernels")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, length, side = arguments.one.split(",")
        profile = arguments.profile and arguments.profile / f"{name}-{length}-{side}.txt"
        print(json.dumps(measure(side, SHAPES[name], int(length), arguments.steps, profile)))
        return
    if arguments.profile:
        arguments.profile.mkdir(parents=True, exist_ok=True)
    print_table(arguments)


def print_table(arguments: argparse.Namespace) -> None:
    """Measure everything in turn, a row at a time."""
    import torch

    from fm9g.training.throughput import data_sheet_peak

    on_cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_cuda else "CPU"
    peak = data_sheet_peak(device)
    told = f"{peak / 1e12:,.0f} TFLOP/s" if peak else "peak unknown"
    print(f"{device} ({told}), torch {torch.__version__}; the fastest of {arguments.steps} steps")
    print("shape  length side       tokens/s MFU full   causal      GiB  outside", flush=True)
    for name in arguments.shapes.split(","):
        for length in map(int, arguments.lengths.split(",")):
            rates = {}
            for side in arguments.sides.split(","):
                found = in_own_process(__file__, arguments, one=f"{name},{length},{side}")
                print(line(name, side, SHAPES[name], length, found, peak), flush=True)
                rates[side] = 1 / found["seconds"] if found else None
            mine = rates.get("ours")
            ratios = [
                f"{mine / rate:.2f} of {side}'s" for side, rate in rates.items() if side != "ours" and mine and rate
            ]
            if ratios:
                print(f"{name:5} {length:7,} ours is {', '.join(ratios)}", flush=True)


if __name__ == "__main__":
    main()
