"""A few steps of a small decoder on one global batch, dealt to however many ranks there are: for programs of tests.

Counted, summed and told as in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.data.stream.loader import StepBatch
from fm9g.data.stream.strip import Strip
from fm9g.lora.adapters import Adapters
from fm9g.lora.settings import LoraSettings
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder, as_it_is
from fm9g.objectives.language_model import LanguageModel
from fm9g.objectives.router import ROUTER_LOSS
from fm9g.runtime import bmt
from fm9g.runtime.shards import gathered_weights
from fm9g.training.settings import Settings
from fm9g.training.step import StepLosses, count_step, step_losses, units_by_task

LENGTHS = ((9, 3, 5), (1, 15, 1), (8, 9), (2, 14, 1))  # of the documents in each row: 17 tokens do not divide evenly


def read(row: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(row)
    tokens, targets = torch.randint(0, 61, (2, 17), generator=generator).to(runtime.device())
    targets[: 3 * row] = -100  # rows differ in their number of valid targets
    return tokens, targets


def learn(model: Decoder, strips: list[Strip], manager: Any) -> StepLosses:
    """The losses and gradients of a step whose strips, of one task, are dealt to all ranks; these are this one's."""
    objective = LanguageModel(model, Settings())
    batch = StepBatch(0, strips, documents=[0], tokens=[sum(len(strip.tokens) for strip in strips)], skipped=[])
    counts = count_step(batch, units_by_task(objective, batch), exhausted=False, flops=0.0)
    return step_losses(model, objective, batch, counts, manager.backward)


def train(
    config: ModelConfig, options: dict[str, Any], lora: LoraSettings | None, steps: int
) -> tuple[dict[str, Any], Decoder, Any]:
    """Losses, routers' among them, norms of gradients and final weights, with the decoder and its optimizer; vocab_size
    must be 61."""
    adapters = None if lora is None else Adapters(lora, config)
    model = Decoder(config, prepare=as_it_is if adapters is None else adapters.prepare, **options)
    torch.manual_seed(3)
    bmt.init_parameters(model)
    if adapters is not None:
        adapters.begin(model)
    manager = bmt.optim.OptimManager(grad_scale=1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    manager.add_optimizer(bmt.optim.AdamOptimizer(trained, lr=0.01, weight_decay=0.1))
    result: dict[str, Any] = {"losses": [], "norms": [], "routers": []}
    strips = []
    for row in range(len(LENGTHS))[runtime.data_rank() :: runtime.data_ranks()]:
        (tokens, targets), pieces = read(row), len(LENGTHS[row])
        strips.append(Strip(tokens.cpu(), targets.cpu(), [*LENGTHS[row]], [0] * pieces, [0] * pieces))
    for _ in range(steps):
        manager.zero_grad()
        told = learn(model, strips, manager)
        result["losses"].append(told.loss)
        result["routers"].append(told.seen.get(ROUTER_LOSS))
        norm = manager.clip_grad_norm(manager.optimizers[0].param_groups, max_norm=1.0)
        result["norms"].append(float(norm))
        manager.step()
    result["final"] = {name: weight.clone() for name, weight in gathered_weights(model)}
    return result, model, manager
