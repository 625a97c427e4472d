"""The model of benchmarks/scaling_model.py against a small decoder on CPU ranks of this machine.

Every number of ranks has processes of its own. In turn, so that other work on the machine disturbs all alike, each
measures what it reaches while the others are as busy, on one thread: matrix products, the copying of memory, all-gather
and reduce-scatter of several sizes; and the step. What a rank reaches is taken as it is with so many of them, for they
share cores. Medians over the rounds.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scaling_model import Plan, Step, step
from fm9g.model.config import ModelConfig

RANKS = (1, 2, 4)
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
    gathering: Line
    reducing: Line
    share: float = 1.0  # of `flops`, by all that a step computes
    per_node: int = 8
    overlaps: bool = False

    @property
    def lines(self) -> tuple[Line, Line]:
        return self.gathering, self.reducing

    def compute(self, flops: float) -> float:
        return flops / (self.flops * self.share)

    def gather(self, size: float, ranks: int, near: int) -> float:
        return self.gathering(size) if ranks > 1 else 0.0

    def reduce(self, size: float, ranks: int, near: int) -> float:
        return self.reducing(size) if ranks > 1 else 0.0

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


def collectives(ranks: int) -> dict[str, Callable[[], object]]:
    """IN_A_ROW all-gathers, and as many reduce-scatters, of each of SIZES, to and from buffers that are made for each
    as the engine makes them: on a CPU memory that is new takes its time."""
    import torch

    from fm9g import runtime
    from fm9g.runtime import collectives as ours

    group = runtime.bmt.config["zero_comm"]

    def gathers(size: int, part: torch.Tensor) -> None:
        for _ in range(IN_A_ROW):
            ours.allGather(part.storage(), part.new_empty(size // 4).storage(), group)

    def reduces(size: int, part: torch.Tensor) -> None:
        for _ in range(IN_A_ROW):
            ours.reduceScatter(part.new_zeros(size // 4).storage(), part.storage(), "sum", group)

    works: dict[str, Callable[[], object]] = {}
    for size in SIZES if ranks > 1 else ():
        part = torch.ones(size // 4 // ranks)
        works[f"gather {size}"] = functools.partial(gathers, size, part)
        works[f"reduce {size}"] = functools.partial(reduces, size, part)
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


def training_steps(ranks: int) -> dict[str, Callable[[], object]]:
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
            manager.backward(total / (length * MICRO_STEPS * ranks))
        manager.clip_grad_norm(optimizer.param_groups, 1.0)
        manager.step()

    return {f"step {length}": functools.partial(step_over, length) for length in LENGTHS}


def _config() -> ModelConfig:
    return ModelConfig(**SHAPE, dtype="float32", max_length=max(LENGTHS))


def measure(ranks: int) -> dict[str, float]:
    """Seconds of everything, this rank's and the others' at the same time."""
    import torch

    from fm9g import runtime

    runtime.initialize(seed=1)
    torch.set_num_threads(1)
    works = {**rates(), **collectives(ranks), **training_steps(ranks)}
    rounds = [{name: timed(work) for name, work in works.items()} for _ in range(ROUNDS + 1)]
    # the first takes memory that is there then
    return {name: statistics.median(one[name] for one in rounds[1:]) for name in works}


def measured(ranks: int) -> dict[str, float]:
    """The same from processes of their own."""
    where = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *where, __file__, str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        sys.exit(f"{ranks} ranks failed:\n{done.stdout}{done.stderr}")
    return json.loads(lines[0])


def machine_of(found: dict[str, float], share: float = 1.0) -> Cpus:
    """What was measured, as the model takes it."""
    products = 2 * LENGTHS[0] * SHAPE["dim_model"] * SHAPE["dim_ff"] * PRODUCTS
    rate, copied = products / found["products"], 2 * COPIED / found["copy"]
    if f"gather {SIZES[0]}" not in found:
        return Cpus(rate, copied, Line(0, 0), Line(0, 0), share)
    gathering, reducing = (
        fit(SIZES, [found[f"{name} {size}"] / IN_A_ROW for size in SIZES]) for name in ("gather", "reduce")
    )
    return Cpus(rate, copied, gathering, reducing, share)


def check() -> None:
    """Print what is predicted beside what is measured."""
    print("of one rank while all are busy: products, copying; ms + GB/s of all-gather, and of reduce-scatter")
    print(f"ranks  GFLOP/s  GB/s {'all-gather':>16} {'reduce-scatter':>16}", flush=True)
    all_found = {}
    for ranks in RANKS:
        all_found[ranks] = measured(ranks)
        machine = machine_of(all_found[ranks])
        lines = [f"{line.base * 1e3:.2f} + {1e-9 / line.each:.2f}" for line in machine.lines if line.each]
        told = "".join(f" {line:>16}" for line in lines)
        print(f"{ranks:5} {machine.flops / 1e9:8.1f} {machine.copied / 1e9:5.1f}{told}", flush=True)
    for length in LENGTHS:
        print("\n" + "\n".join(compared(length, all_found)))


def compared(length: int, all_found: dict[int, dict[str, float]]) -> Iterator[str]:
    """The table of rows of one length."""
    plans = {ranks: Plan(_config(), ranks, 1, length, MICRO_STEPS) for ranks in all_found}
    alone = step(plans[1], machine_of(all_found[1]))
    share = alone.computing / (all_found[1][f"step {length}"] - alone.update)
    shape = f"{SHAPE['num_layers']} layers of {SHAPE['dim_model']}"
    yield f"ms of a step of {shape}, {MICRO_STEPS} micro-steps of a row of {length} tokens a rank, one thread each;"
    yield f"it computes at {share:.0%} of the products' rate, as the one rank's step does"
    yield "ranks  computing   ZeRO  update  predicted  measured  predicted / measured"
    for ranks, found in all_found.items():
        yield row(ranks, step(plans[ranks], machine_of(found, share)), found[f"step {length}"])


def row(ranks: int, told: Step, took: float) -> str:
    """A line of the table."""
    parts = f"{told.computing * 1e3:10.0f} {abs(told.exposed) * 1e3:6.0f} {told.update * 1e3:7.0f}"
    return f"{ranks:5} {parts} {told.seconds * 1e3:10.0f} {took * 1e3:9.0f} {told.seconds / took:10.2f}"


if __name__ == "__main__":
    result = measure(int(sys.argv[1]))
    from fm9g import runtime

    if runtime.rank() == 0:
        print(MARK + json.dumps(result), flush=True)
