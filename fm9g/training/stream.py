"""A run's data stream: made from its inputs, described in a checkpoint, checked and loaded when it is resumed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fm9g import runtime
from fm9g.data.stream.continuation import Generations, balanced, rearrange_states
from fm9g.data.stream.loader import STREAM_RULES, Loader, Plan, StepStream
from fm9g.data.stream.order import Generation
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.errors import UserError
from fm9g.tensors.readers import map_pt
from fm9g.training.inputs import Inputs

DATA_FILE = "data-{rank:05d}.pt"


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
    inputs: Inputs, plan: Plan, first_step: int, states: dict[int, np.ndarray], generations: Generations
) -> Loader:
    """The loader of steps first_step to train_iters."""
    settings = inputs.settings
    steps = range(first_step, settings.train_iters)
    prefetcher = Prefetcher(settings.dataloader_num_threads, settings.dataloader_prefetch)
    stream = StepStream(plan, inputs.entries, str(inputs.tokenizer_path), steps, states, prefetcher, generations)
    return Loader(stream, settings.dataloader_num_workers, settings.dataloader_prefetch_factor)


def describe_stream(inputs: Inputs, plan: Plan, generations: Generations) -> dict[str, Any]:
    """What a saved data state belongs to, for the checkpoint's state.json."""
    return {
        "rules": STREAM_RULES,
        "rows_per_step": plan.rows_per_step,
        "row_length": plan.row_length,
        "seed": plan.seed,
        "tokenizer": inputs.tokenizer.fingerprint,
        "vocabulary": inputs.tokenizer.vocabulary,
        "tasks": [
            {
                "name": corpus.entry.task_name,
                "share": corpus.entry.share,
                "epochs": corpus.entry.epochs,
                "special_tokens": corpus.entry.special_tokens,
                "fingerprint": corpus.dataset.fingerprint,
                "generations": [
                    [g.epoch, g.records]
                    for g in generations.get(corpus.entry.task_name, [Generation(0, corpus.records)])
                ],
            }
            for corpus in inputs.corpora
        ],
    }


def check_stream(inputs: Inputs, saved: dict[str, Any]) -> None:
    """Refuse a saved data state that the present code, data, seed or tokenizer does not continue."""
    if (rules := saved.get("rules", "none")) != STREAM_RULES:
        raise UserError(
            f"the checkpoint's data follows the rules of another version of fm9g ({rules}, this one has "
            f"{STREAM_RULES}): its records would come in another order; continue with that version, or use "
            "load_dataloader_ckpt=0 to start the data anew"
        )
    for name, now in (
        ("seed", inputs.settings.seed),
        ("row_length", inputs.settings.max_length),
        ("tokenizer", inputs.tokenizer.fingerprint),
    ):
        if saved[name] != now:
            setting = {"row_length": "max_length"}.get(name, name)
            raise UserError(
                f"{setting} was {saved[name]} when the checkpoint was made and is {now} now: the data cannot "
                "continue; restore it, or use load_dataloader_ckpt=0 to start the data anew"
            )
    tasks = {task["name"]: task for task in saved["tasks"]}
    for corpus in inputs.corpora:
        name = corpus.entry.task_name
        if name not in tasks or inputs.settings.accept_changed_data:
            continue
        if (before := tasks[name]["special_tokens"]) != corpus.entry.special_tokens:
            raise UserError(
                f"dataset {name!r}: special_tokens was {str(before).lower()} when the checkpoint was made and is "
                f"{str(not before).lower()} now, which changes its tokens: set it in the mixture as it was, give the "
                "dataset another task_name, or use --accept_changed_data to continue anyway"
            )
        if tasks[name]["fingerprint"] not in corpus.dataset.fingerprints:
            raise UserError(
                f"dataset {name!r} ({corpus.entry.path}) is not the file that the checkpoint was made with: restore "
                "it, give the new data a task_name of its own, or use --accept_changed_data to continue anyway"
            )


def load_states(folder: Path, inputs: Inputs, saved: dict[str, Any]) -> dict[int, np.ndarray]:
    """{lane: state} of all ranks' lanes in a checkpoint, arranged for the present mixture."""
    files = sorted(folder.glob("data-*.pt"))
    with ThreadPoolExecutor(inputs.settings.parallel_load_datastate) as pool:
        parts = list(pool.map(map_pt, files))
    states = {
        int(lane): state for part in parts for lane, state in zip(part["lanes"], part["states"].numpy(), strict=True)
    }
    return rearrange_states(states, saved["tasks"], [balanced(corpus) for corpus in inputs.corpora])
