"""A training step on paper: what is computed, what is sent, and what of it computing hides. Seconds, bytes and FLOPs.

ZeRO-3 as this engine has it (fm9g/runtime/zero_context.py, BMTrain's block_layer.py and hook_func.py): in every
micro-step a block's weights are gathered before its forward and again before its backward, which recomputes with them
where use_checkpoint says so; its gradients are reduced and scattered after the backward. The gather of the next block,
and the scatter of the one before, run while a block computes. Embedding and head are gathered once in a micro-step.

Tensor parallelism as in Korthikanti et al. (https://arxiv.org/abs/2205.05198, section 4.2): the ranks of a group have
the same rows and 1/tp of the tokens between blocks, and 1/tp of each matrix of a block, which ZeRO cuts over ranks/tp.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fm9g.model.config import ModelConfig
from fm9g.model.parameters import LAYERS, count, parameters
from fm9g.training.memory import memory_per_rank
from fm9g.training.settings import Settings
from fm9g.training.throughput import PEAKS, model_flops

WIDTH = {"bf16": 2, "fp16": 2, "float32": 4}  # bytes of a value
# bytes that an update moves for each parameter. AdamW reads gradient, moments and (master) weights and writes all but
# the gradient; zeroing, the norm and clipping read and write the gradient
UPDATE = {"bf16": 28 + 8, "fp16": 28 + 8, "float32": 28 + 16}


class Machine(Protocol):
    """How long things take. A group of `ranks` has `near` of them on each node."""

    @property
    def per_node(self) -> int: ...

    @property
    def overlaps(self) -> bool:
        """Whether collectives run beside what is computed."""
        ...

    def compute(self, flops: float) -> float: ...

    def gather(self, size: float, ranks: int, near: int) -> float: ...

    def reduce(self, size: float, ranks: int, near: int) -> float: ...

    def update(self, size: float) -> float: ...


class Wire(NamedTuple):
    """A protocol of NCCL: the part of the bandwidth that it reaches, and seconds: to begin, and for a hop of a ring
    within a node, between nodes, and between nodes that have one rank of the group each."""

    share: float
    base: float
    near: float
    far: float
    far_alone: float


# LL, LL128 and Simple: https://github.com/NVIDIA/nccl/blob/v2.28.7-1/src/graph/tuning.cc, rings over NVLink and network
NCCL = (
    Wire(0.5, 6.6e-6, 0.6e-6, 2.7e-6, 5.0e-6),
    Wire(0.92, 14.0e-6, 1.9e-6, 4.0e-6, 8.5e-6),
    Wire(1.0, 8.4e-6, 3.4e-6, 14.0e-6, 14.0e-6),
)


@dataclass(frozen=True)
class Gpus:
    """Nodes of GPUs; what can be reached of a peak is an assumption, which docs/scaling.md gives reasons for."""

    peak: float = PEAKS["H200"]
    attained: float = 0.5  # of the peak, by all that a block computes
    nvlink: float = 450e9  # bytes a second, of a GPU and direction
    network: float = 50e9  # the same: 400 Gb/s
    links_attained: float = 0.8
    hbm: float = 4.8e12
    hbm_attained: float = 0.8
    memory: float = 141e9
    per_node: int = 8
    overlaps: bool = True
    wires: tuple[Wire, ...] = NCCL

    @property
    def usable(self) -> float:
        """Bytes that a plan may come to: an estimate is one, and allocators lose some."""
        return 0.9 * self.memory

    def compute(self, flops: float) -> float:
        return flops / (self.peak * self.attained)

    def gather(self, size: float, ranks: int, near: int) -> float:
        """All-gather of `size` bytes in all: (n - 1) / n of them pass each link of a ring in n - 1 hops.

        Every node has a network card a GPU, and NCCL lays a ring over each: the `near` ranks of a group bring as many
        cards. The wire that is fastest for the size is taken, as NCCL does.
        """
        if ranks == 1:
            return 0.0
        near = min(near, ranks)
        far = ranks // near - 1
        bandwidth = min(self.nvlink, near * self.network) if far else self.nvlink
        sent = size * (ranks - 1) / ranks / (bandwidth * self.links_attained)
        hops = ((wire, wire.far if near > 1 else wire.far_alone) for wire in self.wires)
        return min(wire.base + (ranks - 1 - far) * wire.near + far * hop + sent / wire.share for wire, hop in hops)

    def reduce(self, size: float, ranks: int, near: int) -> float:
        """Reduce-scatter: the same way round."""
        return self.gather(size, ranks, near)

    def update(self, size: float) -> float:
        return size / (self.hbm * self.hbm_attained)


@dataclass(frozen=True)
class Plan:
    """How a model is trained: `rows` are those of a tensor-parallel group in a micro-step."""

    config: ModelConfig
    ranks: int
    rows: int
    length: int
    micro_steps: int = 1
    tp: int = 1
    recompute: bool = False

    @property
    def tokens(self) -> int:
        """Of a step, all ranks together."""
        return self.rows * self.length * self.micro_steps * self.ranks // self.tp


class Step(NamedTuple):
    """Seconds of a step: computing, exchanges within tensor-parallel groups, ZeRO's collectives as far as nothing hides
    them, and the update."""

    computing: float
    tensor_parallel: float
    exposed: float
    update: float

    @property
    def seconds(self) -> float:
        return sum(self)


def head_flops(plan: Plan) -> float:
    """Of head and last norm, a rank and micro-step, forward and backward, as throughput.model_flops counts."""
    one = dataclasses.replace(plan.config, num_layers=1)
    return _flops(plan, one) / plan.tp - block_flops(plan)


def block_flops(plan: Plan) -> float:
    """Of a block, a rank and micro-step, forward and backward: a third of it forward."""
    one, two = (dataclasses.replace(plan.config, num_layers=layers) for layers in (1, 2))
    return (_flops(plan, two) - _flops(plan, one)) / plan.tp


def _flops(plan: Plan, config: ModelConfig) -> float:
    return model_flops(config, plan.rows * plan.length, plan.rows * plan.length**2)


def block_bytes(config: ModelConfig, tp: int) -> tuple[int, int]:
    """What is gathered of a block: of what tensor parallelism cuts, and of what it does not: vectors, and the
    projections of fewer key heads than ranks."""
    block = [parameter for parameter in parameters(config) if parameter.name.startswith(f"{LAYERS}0.")]
    whole = {"dim", "head"} if config.num_kv_heads % tp == 0 else {"dim", "head", "kv"}
    cut = count(parameter for parameter in block if not whole.issuperset(parameter.axes))
    return WIDTH[config.dtype] * cut, WIDTH[config.dtype] * (count(block) - cut)


def zero_of_block(plan: Plan, machine: Machine) -> tuple[float, float]:
    """Seconds to gather a block's weights, and to reduce and scatter its gradients.

    With tensor parallelism what it does not cut is a storage of its own, dealt to all ranks: another collective.
    """
    matrices, vectors = block_bytes(plan.config, plan.tp)
    ranks, near = plan.ranks // plan.tp, max(1, machine.per_node // plan.tp)
    if plan.tp == 1:
        whole = matrices + vectors
        return machine.gather(whole, ranks, near), machine.reduce(whole, ranks, near)
    cut = matrices / plan.tp
    everywhere = (vectors, plan.ranks, machine.per_node)
    return (
        machine.gather(cut, ranks, near) + machine.gather(*everywhere),
        machine.reduce(cut, ranks, near) + machine.reduce(*everywhere),
    )


def zero_of_embedding(plan: Plan, machine: Machine) -> tuple[float, float]:
    """The same of the embedding, or of the head, over all ranks."""
    size = WIDTH[plan.config.dtype] * plan.config.vocab_size * plan.config.dim_model
    return machine.gather(size, plan.ranks, machine.per_node), machine.reduce(size, plan.ranks, machine.per_node)


def exchanges_of_block(plan: Plan, machine: Machine) -> tuple[float, float]:
    """Seconds in a tensor-parallel group for a block's forward, and its backward.

    Forward: two all-gathers of [T, dim] and two reduce-scatters. Backward: their mirror, and those of the forward once
    more where it is recomputed. Nothing is computed meanwhile.
    """
    if plan.tp == 1:
        return 0.0, 0.0
    size = WIDTH[plan.config.dtype] * plan.rows * plan.length * plan.config.dim_model
    forward = 2 * (machine.gather(size, plan.tp, plan.tp) + machine.reduce(size, plan.tp, plan.tp))
    return forward, forward * (2 if plan.recompute else 1)


def micro_step(plan: Plan, machine: Machine) -> Step:
    """Forward and backward of a micro-step; the config has at least two layers."""
    layers, block = plan.config.num_layers, machine.compute(block_flops(plan))
    gather, reduce = zero_of_block(plan, machine)
    gather_head, reduce_head = zero_of_embedding(plan, machine)
    exchange, exchange_back = exchanges_of_block(plan, machine)
    forward = block / 3 + exchange
    backward = block * (1 if plan.recompute else 2 / 3) + exchange_back

    def beside(computing: float, sending: float) -> float:
        return max(computing, sending) if machine.overlaps else computing + sending

    # embedding and first block, then each beside the gather of the next: the last beside that of the head
    spent = gather_head + gather + (layers - 1) * beside(forward, gather) + beside(forward, gather_head)
    # the head's gradients and the last block's weights; the first in backward has nothing to scatter, the last of it
    # nothing to gather
    spent += reduce_head + gather + beside(backward, gather)
    spent += (layers - 2) * beside(backward, gather + reduce) + beside(backward, reduce)
    spent += reduce + reduce_head  # the first block's and the embedding's gradients
    computing = layers * (forward + backward - exchange - exchange_back)
    exchanged = layers * (exchange + exchange_back)
    return Step(computing + machine.compute(head_flops(plan)), exchanged, spent - computing - exchanged, 0.0)


def step(plan: Plan, machine: Machine) -> Step:
    """All micro-steps, each of which gathers and reduces anew, and the update of a rank's share."""
    computing, exchanged, exposed, _ = micro_step(plan, machine)
    times = plan.micro_steps
    size = UPDATE[plan.config.dtype] * count(parameters(plan.config)) / plan.ranks
    return Step(times * computing, times * exchanged, times * exposed, machine.update(size))


def mfu(plan: Plan, peak: float, seconds: float) -> float:
    """Model FLOPs of a step over what all ranks' peaks come to."""
    tokens = plan.tokens
    return model_flops(plan.config, tokens, tokens * plan.length) / (peak * plan.ranks * seconds)


def memory(plan: Plan) -> float:
    """Bytes a rank, as a dry run estimates them."""
    settings = Settings(
        batch_size=plan.rows, max_length=plan.length, use_checkpoint=plan.recompute, tp_size=plan.tp, n_gpus=plan.tp
    )
    return sum(memory_per_rank(plan.config, settings, plan.ranks).values())


def rows_that_hide(plan: Plan, machine: Machine) -> float:
    """Rows of a rank and micro-step from which on a block computes as long as its collectives take."""
    gather, reduce = zero_of_block(plan, machine)
    block = machine.compute(block_flops(plan)) / (plan.rows / plan.tp)  # of a row that one rank has alone
    return max(gather / (block / 3), (gather + reduce) / (block * (1 if plan.recompute else 2 / 3)))


def fastest(
    config: ModelConfig, machine: Gpus, ranks: int, rows: int, length: int, tp: int = 1
) -> tuple[Plan, Step] | None:
    """The fastest way to train `rows` a step, of those whose memory suffices; None where there is none."""
    groups = ranks // tp
    if ranks % tp or rows % groups:
        return None
    each = rows // groups
    plans = [
        Plan(config, ranks, at_once, length, each // at_once, tp, recompute)
        for at_once in range(1, each + 1)
        if each % at_once == 0
        for recompute in (False, True)
    ]
    fitting = [(plan, step(plan, machine)) for plan in plans if memory(plan) <= machine.usable]
    return min(fitting, key=lambda found: found[1].seconds, default=None)
