"""benchmarks/scaling_model.py: what it says is sent and computed is what a step sends and computes."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling_here import fit
from benchmarks.scaling_model import (
    Gpus,
    Plan,
    block_flops,
    fastest,
    head_flops,
    micro_step,
    rows_that_hide,
    step,
    zero_of_block,
)
from fm9g.model.config import ModelConfig
from fm9g.training.throughput import model_flops
from tests.support.ranks import REPOSITORY, run_ranks

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "dim_model": 64,
    "num_heads": 2,
    "num_kv_heads": 1,
    "num_layers": 3,
    "dim_ff": 160,
}
CONFIG = ModelConfig(**SHAPE, dtype="float32", max_length=32)
SEVEN = ModelConfig(vocab_size=32000, dim_model=4096, num_heads=32, num_layers=32, dim_ff=11008)

COUNTING = """
import json, sys
import torch
from fm9g import runtime
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.runtime import collectives

shape, recompute, micro_steps, tp_size = json.loads(sys.argv[1]), sys.argv[2] == "1", *map(int, sys.argv[3:])
runtime.initialize(seed=1, tp_size=tp_size)
model = Decoder(ModelConfig(**shape, dtype="float32", max_length=32), use_checkpoint=recompute)
runtime.bmt.init_parameters(model)
manager = runtime.bmt.optim.OptimManager(grad_scale=1)
manager.add_optimizer(runtime.bmt.optim.AdamOptimizer(model.parameters(), lr=1e-3))
sent = {"allGather": 0, "reduceScatter": 0}

def counted(name, whole):
    original = getattr(collectives, name)
    def call(*arguments):
        sent[name] += 4 * arguments[whole].size() * (arguments[-1].size > 1)
        return original(*arguments)
    setattr(collectives, name, call)

counted("allGather", 1)
counted("reduceScatter", 0)
tokens = torch.arange(33)
for _ in range(micro_steps):
    total, _ = model.loss(tokens[:-1], tokens[1:], model.context([32]))
    manager.backward(total)
if runtime.rank() == 0:
    print("sent " + json.dumps(sent))
"""


@dataclass
class Counting:
    """A machine whose seconds are bytes that are gathered, or reduced."""

    per_node: int = 8
    overlaps: bool = False
    counts: dict[str, int] = field(default_factory=lambda: {"gather": 1, "reduce": 1})

    def compute(self, flops):
        return 0.0

    def gather(self, size, ranks, near):
        return size * self.counts["gather"] * (ranks > 1)

    def reduce(self, size, ranks, near):
        return size * self.counts["reduce"] * (ranks > 1)

    def update(self, size):
        return 0.0


@pytest.mark.parametrize(
    ("recompute", "micro_steps", "ranks", "tp"), [(False, 1, 2, 1), (True, 2, 2, 1), (False, 2, 2, 2), (True, 1, 4, 2)]
)
def test_what_is_sent_is_what_a_step_sends(tmp_path, recompute, micro_steps, ranks, tp):
    """To the padding of a storage to 512 bytes a tensor, the last norm and the losses that a group tells its ranks,
    which the model leaves out."""
    result = run_ranks(COUNTING, ranks, tmp_path, [json.dumps(SHAPE), int(recompute), micro_steps, tp])
    assert result.returncode == 0, result.output
    sent = json.loads(next(line for line in result.output.splitlines() if line.startswith("sent "))[5:])
    plan = Plan(CONFIG, ranks, 1, 32, micro_steps, tp, recompute)
    for name, counts in (("allGather", {"gather": 1, "reduce": 0}), ("reduceScatter", {"gather": 0, "reduce": 1})):
        assert step(plan, Counting(counts=counts)).seconds == pytest.approx(sent[name], rel=0.01)


def test_blocks_and_head_compute_what_a_step_is_said_to():
    plan = Plan(SEVEN, 8, 2, 4096)
    whole = SEVEN.num_layers * block_flops(plan) + head_flops(plan)
    assert whole == pytest.approx(model_flops(SEVEN, 2 * 4096, 2 * 4096**2))
    for_four = Plan(SEVEN, 8, 8, 4096, tp=4)
    assert block_flops(for_four) == pytest.approx(block_flops(plan))


def test_a_ring_takes_its_bytes_over_the_slower_link_and_its_hops():
    """By hand, for a size where the hops do not count, and one where nothing else does."""
    machine, large = Gpus(links_attained=1), 1e12
    assert machine.gather(large, 8, 8) == pytest.approx(large * 7 / 8 / 450e9, rel=1e-3)
    assert machine.gather(large, 64, 8) == pytest.approx(large * 63 / 64 / 400e9, rel=1e-3)  # eight cards of a node
    assert machine.gather(large, 8, 1) == pytest.approx(large * 7 / 8 / 50e9, rel=1e-3)  # one of them
    assert machine.gather(1, 64, 8) == pytest.approx(6.6e-6 + 56 * 0.6e-6 + 7 * 2.7e-6, rel=1e-3)
    assert machine.gather(large, 1, 1) == 0


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tp", [1, 4])
def test_what_is_hidden(recompute, tp):
    """Between the longest of its parts and their sum; where there is enough to compute nothing but the ends is left."""
    plan = Plan(SEVEN, 64, tp, 4096, tp=tp, recompute=recompute)
    machine = Gpus()
    alone = micro_step(plan, dataclasses.replace(machine, overlaps=False))
    beside = micro_step(plan, machine)
    assert 0 < beside.exposed < alone.exposed
    assert beside[:2] == alone[:2]
    enough = rows_that_hide(plan, machine)
    gather, reduce = zero_of_block(plan, machine)
    many = dataclasses.replace(plan, rows=tp * (1 + int(enough)))
    assert micro_step(many, machine).exposed < 2 * gather + reduce + 10 * gather  # and the embedding's and the head's
    few = dataclasses.replace(plan, length=128)
    assert micro_step(few, machine).exposed > SEVEN.num_layers * gather


def test_the_fastest_plan_trains_all_rows_and_fits():
    for tp in (1, 2):
        plan, took = fastest(SEVEN, Gpus(), 64, 256, 4096, tp)
        assert plan.tokens == 256 * 4096
        assert took.seconds > 0
    assert fastest(SEVEN, Gpus(), 512, 256, 4096) is None  # a row for every second rank
    assert fastest(SEVEN, Gpus(memory=1e9), 64, 256, 4096) is None


def test_a_line_is_found_again():
    line = fit([1e6, 4e6, 16e6], [1e-3 + 2e-9 * size for size in (1e6, 4e6, 16e6)])
    assert line == pytest.approx((1e-3, 2e-9))


@pytest.mark.parametrize("suffix", ["", ".zh"])
def test_the_tables_of_the_page_are_those_of_the_command(suffix, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scaling.py"])
    scaling.main()
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--published"])
    scaling.main()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    page = (REPOSITORY / "docs" / f"scaling{suffix}.md").read_text("utf-8").splitlines()
    assert len(printed) > 70
    assert not [line for line in printed if f"    {line}" not in page]
