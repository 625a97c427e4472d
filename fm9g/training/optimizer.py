"""The optimizer of a run: AdamW in BMTrain's manager, with muP's learning rates."""

from __future__ import annotations

from typing import Any

from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.model.parameters import parameters
from fm9g.runtime import backend, bmt
from fm9g.training.optimizer_settings import OptimizerSettings

FP16_LOSS_SCALE = 65536.0


def parameter_groups(model: Decoder) -> list[dict[str, Any]]:
    """The blocks' matrices (whose rates muP scales) and the rest, of what is trained; `lr_scale` multiplies the
    schedule's rate."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrix = {parameter.name for parameter in parameters(model.config) if parameter.role == "matrix"}
    ratio = model.config.width_ratio
    matrices = {"params": [p for name, p in named if name in matrix], "lr_scale": 1 / ratio}
    others = {"params": [p for name, p in named if name not in matrix], "lr_scale": 1.0}
    return [group for group in (matrices, others) if group["params"]]


def initial_loss_scale(settings: OptimizerSettings, config: ModelConfig) -> float | None:
    """The loss scale to start with, or None for no scaling."""
    if settings.loss_scale is None:
        return FP16_LOSS_SCALE if config.dtype == "fp16" else None
    return settings.loss_scale or None


def make_optimizer(settings: OptimizerSettings, model: Decoder) -> Any:
    """BMTrain's OptimManager over one AdamW.

    grad_scale is 1 because the loss is divided by the tokens of all ranks already.
    """
    offload = settings.offload if settings.offload is not None else backend.name == "native"
    kind = bmt.optim.AdamOffloadOptimizer if offload else bmt.optim.AdamOptimizer
    optimizer = kind(
        parameter_groups(model),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
    )
    manager = bmt.optim.OptimManager(
        loss_scale=initial_loss_scale(settings, model.config),
        loss_scale_factor=settings.loss_scale_factor,
        loss_scale_steps=settings.loss_scale_steps,
        min_loss_scale=settings.min_loss_scale,
        grad_scale=1,
    )
    manager.add_optimizer(optimizer)
    return manager


def set_learning_rate(manager: Any, rate: float) -> None:
    """Give every group the schedule's rate times its own scale."""
    for group in manager.optimizers[0].param_groups:
        group["lr"] = rate * group["lr_scale"]
