"""A few steps of a small decoder on one global batch, dealt to however many ranks there are: for programs of tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.lora.adapters import Adapters
from fm9g.lora.settings import LoraSettings
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder, as_it_is
from fm9g.runtime import bmt
from fm9g.runtime.shards import gathered_weights

LENGTHS = ((9, 3, 5), (1, 15, 1), (8, 9), (2, 14, 1))  # of the documents in each row: 17 tokens do not divide evenly


def read(row: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(row)
    tokens, targets = torch.randint(0, 61, (2, 17), generator=generator).to(runtime.device())
    targets[: 3 * row] = -100  # rows differ in their number of valid targets
    return tokens, targets


def train(
    config: ModelConfig, options: dict[str, Any], lora: LoraSettings | None, steps: int
) -> tuple[dict[str, Any], Decoder, Any]:
    """Losses, norms of gradients and final weights, with the decoder and its optimizer; vocab_size must be 61."""
    adapters = None if lora is None else Adapters(lora, config)
    model = Decoder(config, prepare=as_it_is if adapters is None else adapters.prepare, **options)
    torch.manual_seed(3)
    bmt.init_parameters(model)
    if adapters is not None:
        adapters.begin(model)
    manager = bmt.optim.OptimManager(grad_scale=1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    manager.add_optimizer(bmt.optim.AdamOptimizer(trained, lr=0.01, weight_decay=0.1))
    result: dict[str, Any] = {"losses": [], "norms": []}
    rows = range(len(LENGTHS))[runtime.data_rank() :: runtime.data_ranks()]
    valid = sum(int((read(row)[1] != -100).sum()) for row in range(len(LENGTHS)))
    for _ in range(steps):
        manager.zero_grad()
        total = 0.0
        for row in rows:
            tokens, targets = read(row)
            loss, losses = model.loss(tokens, targets, model.context(LENGTHS[row]))
            manager.backward(loss / valid)
            total += losses.sum().item() / valid
        result["losses"].append(runtime.all_reduce(total / runtime.tp_size()))
        norm = manager.clip_grad_norm(manager.optimizers[0].param_groups, max_norm=1.0)
        result["norms"].append(float(norm))
        manager.step()
    result["final"] = {name: weight.clone() for name, weight in gathered_weights(model)}
    return result, model, manager
