"""A run's data stream, made from its inputs."""

from __future__ import annotations

import numpy as np

from fm9g import runtime
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.loader import Loader, Plan, StepStream
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.training.inputs import Inputs
from fm9g.training.settings import Settings


def make_plan(inputs: Inputs) -> Plan:
    """The plan of rows for this rank."""
    settings = inputs.settings
    return Plan(
        settings.seed,
        settings.max_length,
        settings.batch_size,
        settings.grad_accum,
        runtime.rank(),
        runtime.world_size(),
    )


def make_loader(
    settings: Settings, plan: Plan, corpora: list[Corpus], first_step: int, states: dict[int, np.ndarray]
) -> Loader:
    """The loader of steps first_step to train_iters."""
    steps = range(first_step, settings.train_iters)
    prefetcher = Prefetcher(settings.dataloader_num_threads, settings.dataloader_prefetch)
    stream = StepStream(plan, corpora, steps, states, prefetcher)
    return Loader(stream, settings.dataloader_num_workers, settings.dataloader_prefetch_factor)
