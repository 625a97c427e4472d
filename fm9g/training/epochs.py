"""How many iterations num_train_epochs comes to."""

from __future__ import annotations

import dataclasses

from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.dry_read import steps_to_read
from fm9g.data.stream.forecast import never_ends, places_of_a_pass, sample_corpus
from fm9g.data.stream.loader import Plan
from fm9g.errors import UserError
from fm9g.settings import check
from fm9g.training.settings import Settings

EPOCH_SAMPLE = 2000  # records of each dataset, from which it is told how many tokens an epoch has
WARMUP_PART = 10  # of a short run's iterations, one is of warm-up, where nobody chose


def fit_epochs(settings: Settings, corpora: list[Corpus]) -> Settings:
    """Settings with the train_iters that num_train_epochs comes to, by the tokens of a sample of each dataset and by
    how full rows are; a UserError for more epochs than may be read."""
    epochs = settings.num_train_epochs
    if epochs is None or not settings.counts_epochs:
        return settings
    read = [corpus for corpus in corpora if corpus.entry.share > 0]
    samples = {corpus.entry.task_name: sample_corpus(corpus, EPOCH_SAMPLE) for corpus in read}
    places = places_of_a_pass(corpora, samples)
    ends = not never_ends(corpora)
    most = sum(samples[c.entry.task_name].mean * c.records * (c.entry.epochs or 0.0) for c in read) / max(places, 1.0)
    if ends and epochs > max(1.0, most):
        raise UserError(
            f"num_train_epochs {epochs:g}, but the mixture may be read {most:g} times: let its datasets repeat "
            "(allow_repeat, epochs), or lower it"
        )
    steps = steps_to_read(corpora, whole_plan(settings), epochs * places, ends and epochs >= most)
    iterations, warmup = max(1, round(steps)), settings.warmup_iters
    sources = {**settings.sources, "train_iters": f"num_train_epochs {epochs:g} of about {places:,.0f} tokens"}
    if "warmup_iters" not in sources and warmup > iterations:
        sources["warmup_iters"] = f"the default {warmup:g} is more than all iterations"
        warmup = iterations // WARMUP_PART
    settings = dataclasses.replace(settings, train_iters=iterations, warmup_iters=warmup, sources=sources)
    check(settings)
    return settings


def fit_interval(settings: Settings, corpora: list[Corpus]) -> Settings:
    """Settings with the iterations that an eval_interval below 1, a part of an epoch, comes to."""
    part = settings.eval_interval
    if part >= 1:
        return settings
    steps = steps_to_read(corpora, whole_plan(settings), places_of_a_pass(corpora), False)
    sources = {**settings.sources, "eval_interval": f"{part:g} of an epoch of about {steps:,.0f} iterations"}
    return dataclasses.replace(settings, eval_interval=max(1, round(part * steps)), sources=sources)


def whole_plan(settings: Settings) -> Plan:
    """The plan of all ranks' rows, before there are ranks."""
    ranks = settings.data_ranks(settings.ranks)
    return Plan(settings.seed, settings.max_length, settings.batch_size, settings.grad_accum, ranks=ranks)
