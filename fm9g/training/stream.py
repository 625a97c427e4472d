"""A run's data stream: made from its inputs, saved with a checkpoint, resumed, and its digest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fm9g import runtime
from fm9g.data.document import ReadAhead
from fm9g.data.lane import NONE, Lane
from fm9g.data.loader import Loader, Plan, StepStream
from fm9g.errors import UserError
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


def make_loader(inputs: Inputs, plan: Plan, first_step: int, states: dict[int, np.ndarray]) -> Loader:
    """The loader of steps first_step to train_iters."""
    settings = inputs.settings
    steps = range(first_step, settings.train_iters)
    ahead = ReadAhead(settings.dataloader_num_threads, settings.dataloader_prefetch)
    stream = StepStream(plan, inputs.sources, str(inputs.tokenizer_path), steps, states, ahead)
    return Loader(stream, settings.dataloader_num_workers, settings.dataloader_prefetch_factor)


def describe_stream(inputs: Inputs, plan: Plan) -> dict[str, Any]:
    """What a saved data state belongs to, for the checkpoint's state.json."""
    return {
        "rows_per_step": plan.rows_per_step,
        "row_length": plan.row_length,
        "seed": plan.seed,
        "tokenizer": inputs.tokenizer.fingerprint,
        "tasks": [
            {"name": line.source.task_name, "share": line.source.share, "fingerprint": line.dataset.fingerprint}
            for line in inputs.lines
        ],
    }


def keep_rows_per_step(inputs: Inputs, saved: dict[str, Any], ranks: int) -> str:
    """Set grad_accum so that a step has as many rows as in the saved run; returns a line for the log.

    The order of rows depends on their number per step, so where no grad_accum fits this is a UserError.
    """
    settings, rows = inputs.settings, saved["rows_per_step"]
    if rows == ranks * settings.batch_size * settings.grad_accum:
        return ""
    if rows % (ranks * settings.batch_size):
        sizes = [size for size in range(1, rows + 1) if rows % (ranks * size) == 0]
        fitting = ", ".join(f"batch_size {size} with grad_accum {rows // (ranks * size)}" for size in sizes)
        numbers = ", ".join(str(count) for count in range(1, rows + 1) if rows % count == 0)
        raise UserError(
            f"the checkpoint was made with {rows} rows per step, which {ranks} rank(s) with batch_size "
            f"{settings.batch_size} cannot divide: use {fitting or f'a number of ranks among {numbers}'}, "
            "or load_dataloader_ckpt=0 to start the data anew"
        )
    before, settings.grad_accum = settings.grad_accum, rows // (ranks * settings.batch_size)
    return f"grad_accum is {settings.grad_accum} (not {before}) to keep the checkpoint's {rows} rows per step"


def check_stream(inputs: Inputs, saved: dict[str, Any]) -> None:
    """Refuse a saved data state that the present data, seed or tokenizer does not continue."""
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
    fingerprints = {task["name"]: task["fingerprint"] for task in saved["tasks"]}
    for line in inputs.lines:
        name = line.source.task_name
        if fingerprints.get(name, line.dataset.fingerprint) == line.dataset.fingerprint:
            continue
        if not inputs.settings.accept_changed_data:
            raise UserError(
                f"dataset {name!r} ({line.source.path}) is not the file that the checkpoint was made with: restore it, "
                "give the new data a task_name of its own, or use --accept_changed_data to continue anyway"
            )


def load_states(folder: Path, inputs: Inputs, saved: dict[str, Any]) -> dict[int, np.ndarray]:
    """{lane: state} of all ranks' lanes in a checkpoint, arranged for the present mixture."""
    files = sorted(folder.glob("data-*.pt"))
    with ThreadPoolExecutor(inputs.settings.parallel_load_datastate) as pool:
        parts = list(pool.map(lambda path: torch.load(path, weights_only=True), files))
    states = {
        int(lane): state for part in parts for lane, state in zip(part["lanes"], part["states"].numpy(), strict=True)
    }
    return rearrange_states(states, saved["tasks"], [(s.task_name, s.share) for s in inputs.sources])


def rearrange_states(
    states: dict[int, np.ndarray], before: list[dict[str, Any]], now: list[tuple[str, float]]
) -> dict[int, np.ndarray]:
    """Keep each dataset's position under its name; the balance of tokens restarts when shares have changed."""
    old = {task["name"]: index for index, task in enumerate(before)}
    if [(task["name"], task["share"]) for task in before] == now:
        return states
    same_shares = {task["name"]: task["share"] for task in before} == dict(now)
    columns = [(new, old[name]) for new, (name, _) in enumerate(now) if name in old]
    new_of_old = {column: new for new, column in columns}
    rearranged = {}
    for lane, state in states.items():
        result = np.zeros(Lane.state_size(len(now)), dtype=np.int64)
        begun, tokens, next_token = result[:-1].reshape(3, len(now))
        next_token[:] = NONE
        old_begun, old_tokens, old_next_token = state[:-1].reshape(3, len(before))
        for new, column in columns:
            begun[new], next_token[new] = old_begun[column], old_next_token[column]
            tokens[new] = old_tokens[column] if same_shares else 0
        result[-1] = new_of_old.get(int(state[-1]), NONE)
        rearranged[lane] = result
    return rearranged


@dataclass
class StreamDigest:
    """h(t) = sha256(h(t-1) + digest of step t), the latter over the digests of the step's rows in row order.

    Ranks keep the digests of their own rows until `fold` gathers them.
    """

    plan: Plan
    value: bytes = bytes(32)
    pending: list[bytes] = field(default_factory=list)

    def add(self, row_digests: bytes) -> None:
        """Take in this rank's rows of one step."""
        self.pending.append(row_digests)

    def fold(self) -> str:
        """Gather the pending steps of all ranks and return h as hex; every rank must call it."""
        if self.pending:
            ranks = runtime.gather_bytes(b"".join(self.pending))
            per_micro = 32 * self.plan.batch_size
            per_step = per_micro * self.plan.grad_accum
            for step in range(len(self.pending)):
                rows = b"".join(
                    ranks[rank][step * per_step + micro * per_micro :][:per_micro]
                    for micro in range(self.plan.grad_accum)
                    for rank in range(self.plan.ranks)
                )
                self.value = sha256(self.value + sha256(rows).digest()).digest()
            self.pending.clear()
        return self.value.hex()
