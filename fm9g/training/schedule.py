"""Learning rates by iteration."""

from __future__ import annotations

import math

from fm9g.checkpoint.settings import StartSettings
from fm9g.training.optimizer_settings import OptimizerSettings

FLOOR = 0.1  # cosine and warmupstabledrop end at 10 % of the peak


def learning_rate(settings: OptimizerSettings, iteration: int) -> float:
    """The rate of optimizer step `iteration`, 1 to train_iters.

    A linear warm-up (peak at warmup_iters), then by lr_scheduler: cosine to 10 % at train_iters;
    warmupstabledrop, flat and then linear to 10 %; warmupstableexp, flat and then
    lr * drop_rate^((iteration - drop_begin) / drop_iters).
    """
    warmup = settings.iterations("warmup_iters")
    if iteration < warmup:
        return settings.lr * iteration / warmup
    if settings.lr_scheduler == "cosine":
        progress = (iteration - warmup) / max(1, settings.train_iters - warmup)
        return settings.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
    drop, begin = settings.iterations("drop_iters"), drop_begin(settings)
    if iteration <= begin:
        return settings.lr
    if settings.lr_scheduler == "warmupstabledrop":
        return settings.lr * (1 - (1 - FLOOR) * min(1.0, (iteration - begin) / drop))
    return settings.lr * settings.drop_rate ** ((iteration - begin) / drop)


def drop_begin(settings: OptimizerSettings) -> int:
    """The last iteration at the peak, of the schedules that drop."""
    return settings.drop_begin if settings.drop_begin >= 0 else settings.train_iters - settings.iterations("drop_iters")


def resume_ramp(settings: StartSettings, steps_since_resume: int) -> float:
    """What the rate is multiplied by in the first resume_no_optimze steps after a resume: 0, 1/n, 2/n, …"""
    if steps_since_resume >= settings.resume_no_optimze:
        return 1.0
    return steps_since_resume / settings.resume_no_optimze
