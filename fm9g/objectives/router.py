"""The loss of routers, for objectives of models with experts: it asks them to choose all experts alike."""

from __future__ import annotations

import dataclasses

import torch

from fm9g.data.stream.strip import PADDING_TASK, Strip
from fm9g.model.balance import Balance
from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.objectives.base import Cost, counted

ROUTER_LOSS = "router_loss"


def watched(config: ModelConfig, strip: Strip, context: Context) -> Context:
    """The context for a training pass, with a balance of all tokens but padding where the model has experts."""
    if not config.num_experts:
        return context
    counted_T = None
    if PADDING_TASK in strip.tasks:
        is_text = torch.tensor(strip.tasks) != PADDING_TASK
        counted_T = is_text.repeat_interleave(torch.tensor(strip.lengths)).to(strip.tokens.device, non_blocking=True)
    return dataclasses.replace(context, balance=Balance(counted_T))


def with_router_loss(config: ModelConfig, cost: Cost, strip: Strip, context: Context) -> Cost:
    """A strip's cost, a target a unit, with router_loss · (its routers' loss) · its units: of a step of one strip, the
    mean over units and router_loss · (its routers' loss). That itself is seen; it is no piece's."""
    if context.balance is None:
        return cost
    loss, units = context.balance.loss(config.experts_per_token), counted(strip).sum()
    total = cost.total + config.router_loss * units * loss if config.router_loss else cost.total
    return cost._replace(total=total, seen={**cost.seen, ROUTER_LOSS: (loss * units, units)})
