"""Train a small decoder on one global batch a step, and save what every number of ranks must agree on.

arguments: the file to write, and the number of steps
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.data.stream.strip import PADDING_TASK, Strip
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.objectives.router import ROUTER_LOSS
from fm9g.runtime import bmt
from tests.support.small_training import learn

# Documents and padding in each row of a global batch: (lengths, of how many tokens the last of them is padding)
ROWS = [([9, 3, 4], 0), ([16], 0), ([1, 7, 8], 8), ([16], 16)]


def read(row: int) -> Strip:
    generator = torch.Generator().manual_seed(row)
    tokens, targets = torch.randint(0, 61, (2, 16), generator=generator)
    (lengths, padded), tasks = ROWS[row], [0] * len(ROWS[row][0])
    targets[: 3 * row] = targets[len(targets) - padded :] = -100  # ranks differ in their number of valid targets
    tasks[-1] = PADDING_TASK if padded else 0
    return Strip(tokens, targets, lengths, tasks, [0] * len(lengths))


def whole_gradients(model: Decoder) -> dict[str, Tensor]:
    """Every parameter's gradient, put together from the parts that ranks hold."""
    parts = {
        name: (value._start_partition, value.grad.cpu())
        for name, value in model.named_parameters()
        if value._start_partition is not None and value.grad is not None
    }
    whole = {name: torch.zeros(value._original_shape) for name, value in model.named_parameters()}
    for of_rank in map(pickle.loads, runtime.gather_bytes(pickle.dumps(parts))):
        for name, (start, part) in of_rank.items():
            whole[name].view(-1)[start : start + part.numel()] = part
    return whole


def train(steps: int, **changes: Any) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "vocab_size": 61,
        "dim_model": 32,
        "num_heads": 4,
        "num_kv_heads": 2,
        "num_layers": 3,
        "dim_ff": 48,
    }
    config = ModelConfig(**shape, init_std=0.1, **changes)
    model = Decoder(config, use_checkpoint=True)
    torch.manual_seed(3)
    bmt.init_parameters(model)
    manager = bmt.optim.OptimManager(grad_scale=1)  # the loss is divided by the tokens of all ranks already
    manager.add_optimizer(bmt.optim.AdamOptimizer(model.parameters(), lr=0.01, weight_decay=0.1))
    initial = {name: weight.clone() for name, weight in model.state_dict().items()}  # alone, a rank is given its own
    result: dict[str, Any] = {"initial": initial, "losses": [], "routers": []}
    strips = [read(row) for row in range(len(ROWS)) if row % runtime.world_size() == runtime.rank()]
    for step in range(steps):
        manager.zero_grad()
        told = learn(model, strips, manager)
        result["losses"].append(told.loss)
        result["routers"] += told.seen.get(ROUTER_LOSS, ())
        if step == 0:
            result["gradients"] = whole_gradients(model)
        manager.clip_grad_norm(manager.optimizers[0].param_groups, max_norm=1.0)
        manager.step()
    return {**result, "final": model.state_dict()}


runtime.initialize(seed=3)
MODELS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bf16": {"dtype": "bf16"},
    "experts": {
        **{"dtype": "float32", "num_experts": 6, "experts_per_token": 2, "dim_shared_expert": 24},
        "router_loss": 0.1,
    },
}
results = {name: train(int(sys.argv[2]), **changes) for name, changes in MODELS.items()}
if runtime.rank() == 0:
    torch.save(results, sys.argv[1])
