"""The model of benchmarks/scaling_model.py against a small decoder on CPU ranks of this machine.

Every number of ranks, and of them that share rows, has processes of its own. In turn, so that other work on the machine
disturbs all alike, each measures what it reaches while the others are as busy, on one thread: matrix products, the
copying of memory, all-gather and reduce-scatter of several sizes; and the step. What a rank reaches is taken as it is
with so many of them, for they share cores. Medians over the rounds.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scaling_model import Plan, Step, step
from fm9g.model.config import ModelConfig

LAYOUTS = ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2))  # ranks, and how many of them share rows
SHAPE: dict[str, Any] = {"vocab_size": 4096, "dim_model": 512, "num_heads": 8, "num_layers": 4, "dim_ff": 1536}
LENGTHS, MICRO_STEPS = (256, 32), 2  # tokens of the one row of a rank: much to compute, and little
SIZES = (1 << 20, 4 << 20, 16 << 20)  # bytes that are gathered in all
PRODUCTS, COPIED, IN_A_ROW = 40, 32 << 20, 4
ROUNDS = 5
MARK = "measured: "


class Line(NamedTuple):
    """Seconds for some bytes: `base` for none, `each` for one more."""

    base: float
    each: float

    def __call__(self, size: float) -> float:
        return self.base + self.each * size


@dataclass(frozen=True)
class Cpus:
    """This machine with so many ranks busy; here nothing runs beside collectives."""

    flops: float  # a second and rank
    copied: float  # bytes a second and rank
    lines: Mapping[int, tuple[Line, Line]]  # of all-gather and reduce-scatter, by the ranks of a group
    share: float = 1.0  # of `flops`, by all that a step computes
    per_node: int = 8
    overlaps: bool = False

    def compute(self, flops: float) -> float:
        return flops / (self.flops * self.share)

    def gather(self, size: float, ranks: int, near: int) -> float:
        return self.lines[ranks][0](size) if ranks > 1 else 0.0

    def reduce(self, size: float, ranks: int, near: int) -> float:
        return self.lines[ranks][1](size) if ranks > 1 else 0.0

    def update(self, size: float) -> float:
        return size / self.copied


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """The line through measurements with the least squares of relative errors, for small sizes count as much."""
    weights = [1 / found**2 for found in seconds]
    total = sum(weights)
    x = sum(w * size for w, size in zip(weights, sizes, strict=True)) / total
    y = sum(w * found for w, found in zip(weights, seconds, strict=True)) / total
    over = sum(w * (size - x) * (found - y) for w, size, found in zip(weights, sizes, seconds, strict=True))
    each = over / sum(w * (size - x) ** 2 for w, size in zip(weights, sizes, strict=True))
    return Line(max(0.0, y - each * x), each)


def timed(work: Callable[[], object]) -> float:
    """The seconds from a moment when all ranks are there until all have done it."""
    from fm9g import runtime

    runtime.barrier()
    started = time.perf_counter()
    work()
    runtime.barrier()
    return time.perf_counter() - started


def collectives(ranks: int, tp: int) -> dict[str, Callable[[], object]]:
    """IN_A_ROW all-gathers, and as many reduce-scatters, of each of SIZES, to and from buffers that are made for each
    as the engine makes them: on a CPU memory that is new takes its time. Of all ranks, and of groups of `tp`."""
    import torch

    from fm9g import runtime
    from fm9g.runtime import collectives as ours

    def gathers(size: int, part: torch.Tensor, group: Any) -> None:
        for _ in range(IN_A_ROW):
            ours.allGather(part.storage(), part.new_empty(size // 4).storage(), group)

    def reduces(size: int, part: torch.Tensor, group: Any) -> None:
        for _ in range(IN_A_ROW):
            ours.reduceScatter(part.new_zeros(size // 4).storage(), part.storage(), "sum", group)

    groups = {ranks: runtime.bmt.config["zero_comm"]} | ({tp: runtime.bmt.config["tp_comm"]} if tp > 1 else {})
    works: dict[str, Callable[[], object]] = {}
    for members, group in groups.items():
        for size in SIZES if members > 1 else ():
            part = torch.ones(size // 4 // members)
            works[f"gather {members} {size}"] = functools.partial(gathers, size, part, group)
            works[f"reduce {members} {size}"] = functools.partial(reduces, size, part, group)
    return works


def rates() -> dict[str, Callable[[], object]]:
    """PRODUCTS matrix products of the shapes of a feed-forward layer, and a copy of COPIED bytes."""
    import torch

    x_TD, weight_DF = torch.randn(LENGTHS[0], SHAPE["dim_model"]), torch.randn(SHAPE["dim_model"], SHAPE["dim_ff"])
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    return {
        "products": lambda: [x_TD @ weight_DF for _ in range(PRODUCTS)],
        "copy": lambda: target.copy_(source),
    }


def training_steps(groups: int) -> dict[str, Callable[[], object]]:
    """A step of the small decoder over rows of each of LENGTHS."""
    import torch

    from benchmarks.training_sides import ADAM
    from fm9g import runtime
    from fm9g.model.decoder import Decoder

    model = Decoder(_config())
    runtime.bmt.init_parameters(model)
    optimizer = runtime.bmt.optim.AdamOptimizer(model.parameters(), **ADAM)
    manager = runtime.bmt.optim.OptimManager(grad_scale=1)
    manager.add_optimizer(optimizer)

    def step_over(length: int) -> None:
        context, tokens = model.context([length]), torch.randint(0, SHAPE["vocab_size"], (length + 1,))
        manager.zero_grad()
        for _ in range(MICRO_STEPS):
            total, _ = model.loss(tokens[:-1], tokens[1:], context)
            manager.backward(total / (length * MICRO_STEPS * groups))
        manager.clip_grad_norm(optimizer.param_groups, 1.0)
        manager.step()

    return {f"step {length}": functools.partial(step_over, length) for length in LENGTHS}


def _config() -> ModelConfig:
    return ModelConfig(**SHAPE, dtype="float32", max_length=max(LENGTHS))


def measure(ranks: int, tp: int) -> dict[str, float]:
    """Seconds of everything, this rank's and the others' at the same time."""
    import torch

    from fm9g import runtime

    runtime.initialize(seed=1, tp_size=tp)
    torch.set_num_threads(1)
    works = {**rates(), **collectives(ranks, tp), **training_steps(ranks // tp)}
    rounds = [{name: timed(work) for name, work in works.items()} for _ in range(ROUNDS + 1)]
    # the first takes memory that is there then
    return {name: statistics.median(one[name] for one in rounds[1:]) for name in works}


def measured(ranks: int, tp: int) -> dict[str, float]:
    """The same from processes of their own."""
    where = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *where, __file__, str(ranks), str(tp)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        sys.exit(f"{ranks} ranks failed:\n{done.stdout}{done.stderr}")
    return json.loads(lines[0])


def machine_of(found: dict[str, float], share: float = 1.0) -> Cpus:
    """What was measured, as the model takes it."""
    products = 2 * LENGTHS[0] * SHAPE["dim_model"] * SHAPE["dim_ff"] * PRODUCTS
    rate, copied = products / found["products"], 2 * COPIED / found["copy"]
    groups = {int(name.split()[1]) for name in found if name.startswith("gather ")}

    def line(name: str, members: int) -> Line:
        return fit(SIZES, [found[f"{name} {members} {size}"] / IN_A_ROW for size in SIZES])

    lines = {members: (line("gather", members), line("reduce", members)) for members in sorted(groups)}
    return Cpus(rate, copied, lines, share)


def check() -> None:
    """Print what is predicted beside what is measured."""
    print(
        "of one rank while all are busy: products, copying; ms + GB/s of all-gather, and of reduce-scatter, in a group"
    )
    print(f"ranks  tp  GFLOP/s  GB/s  group {'all-gather':>16} {'reduce-scatter':>16}", flush=True)
    all_found = {}
    for ranks, tp in LAYOUTS:
        all_found[ranks, tp] = measured(ranks, tp)
        machine = machine_of(all_found[ranks, tp])
        rates = f"{ranks:5} {tp:3} {machine.flops / 1e9:8.1f} {machine.copied / 1e9:5.1f}"
        for members, lines in machine.lines.items():
            told = "".join(f" {f'{line.base * 1e3:.2f} + {1e-9 / line.each:.2f}':>16}" for line in lines)
            print(f"{rates}  {members:5}{told}", flush=True)
            rates = " " * len(rates)
        if not machine.lines:
            print(rates, flush=True)
    for length in LENGTHS:
        print("\n" + "\n".join(compared(length, all_found)))


def compared(length: int, all_found: dict[tuple[int, int], dict[str, float]]) -> Iterator[str]:
    """The table of rows of one length."""
    plans = {layout: Plan(_config(), layout[0], 1, length, MICRO_STEPS, layout[1]) for layout in all_found}
    alone = step(plans[1, 1], machine_of(all_found[1, 1]))
    share = alone.computing / (all_found[1, 1][f"step {length}"] - alone.update)
    shape = f"{SHAPE['num_layers']} layers of {SHAPE['dim_model']}"
    yield f"ms of a step of {shape}, {MICRO_STEPS} micro-steps of a row of {length} tokens a group, one thread a rank;"
    yield f"it computes at {share:.0%} of the products' rate, as the one rank's step does"
    yield "ranks  tp  computing  exchanges   ZeRO  update  predicted  measured  predicted / measured"
    for layout, found in all_found.items():
        yield row(*layout, step(plans[layout], machine_of(found, share)), found[f"step {length}"])


def row(ranks: int, tp: int, told: Step, took: float) -> str:
    """A line of the table."""
    parts = f"{told.computing * 1e3:10.0f} {told.tensor_parallel * 1e3:10.0f} {abs(told.exposed) * 1e3:6.0f}"
    whole = f"{told.update * 1e3:7.0f} {told.seconds * 1e3:10.0f} {took * 1e3:9.0f} {told.seconds / took:10.2f}"
    return f"{ranks:5} {tp:3} {parts} {whole}"


if __name__ == "__main__":
    result = measure(int(sys.argv[1]), int(sys.argv[2]))
    from fm9g import runtime

    if runtime.rank() == 0:
        print(MARK + json.dumps(result), flush=True)
