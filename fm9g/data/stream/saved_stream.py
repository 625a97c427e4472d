"""A stream in a checkpoint: what it is of, whether the present data continues it, and the states of its lanes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fm9g.data.stream.continuation import balanced, rearrange_states
from fm9g.data.stream.corpus import PART, Corpus
from fm9g.data.stream.loader import STREAM_RULES, Plan
from fm9g.data.stream.record_formats import TEXT
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.errors import UserError
from fm9g.tensors.readers import map_pt

STATES_FILE = "data-{rank:05d}.pt"
_NEW_RULES = ("oversize_rule", "transforms")  # of which older checkpoints say nothing


def describe_stream(plan: Plan, tokenizer: Tokenizer, corpora: Sequence[Corpus]) -> dict[str, Any]:
    """What saved states of lanes belong to, for the checkpoint's state.json."""
    return {
        "rules": STREAM_RULES,
        "rows_per_step": plan.rows_per_step,
        "row_length": plan.row_length,
        "seed": plan.seed,
        "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.vocabulary,
        "tasks": [
            {
                "name": corpus.entry.task_name,
                "share": corpus.entry.share,
                "epochs": corpus.entry.epochs,
                **corpus.reading_rules,
                **({"template_name": corpus.entry.template} if corpus.entry.template else {}),
                "fingerprint": corpus.dataset.fingerprint,
                "generations": [[g.epoch, g.records] for g in corpus.generations],
            }
            for corpus in corpora
        ],
    }


def check_stream(
    saved: dict[str, Any], plan: Plan, tokenizer: Tokenizer, corpora: Sequence[Corpus], accept_changed_data: bool
) -> None:
    """Refuse a saved stream that the present code, seed, row length, tokenizer or (unless accepted) data does not
    continue."""
    if (rules := saved.get("rules", "none")) != STREAM_RULES:
        raise UserError(
            f"the checkpoint's data follows the rules of another version of fm9g ({rules}, this one has "
            f"{STREAM_RULES}): its records would come in another order; continue with that version, or use "
            "load_dataloader_ckpt=0 to start the data anew"
        )
    for name, setting, now in (
        ("seed", "seed", plan.seed),
        ("row_length", "max_length", plan.row_length),
        ("tokenizer", "tokenizer", tokenizer.fingerprint),
    ):
        if saved[name] != now:
            raise UserError(
                f"{setting} was {saved[name]} when the checkpoint was made and is {now} now: the data cannot "
                "continue; restore it, or use load_dataloader_ckpt=0 to start the data anew"
            )
    tasks = {task["name"]: task for task in saved["tasks"]}
    for corpus in corpora:
        if corpus.entry.task_name in tasks and not accept_changed_data:
            _check_dataset(corpus, tasks[corpus.entry.task_name])


def _check_dataset(corpus: Corpus, before: dict[str, Any]) -> None:
    """Refuse a dataset whose records, or what becomes of them, are not as they were."""
    entry = corpus.entry
    name = f"dataset {entry.task_name!r}"
    rules = corpus.reading_rules
    rules = {key: value for key, value in rules.items() if key in before or key not in _NEW_RULES}
    for key in rules.keys() | (before.keys() & {PART}):  # of a whole dataset no rule says that it is
        was, now = (
            before.get(key, TEXT if key == "format" else None),
            rules.get(key),
        )  # older saves know no other format
        if was != now:
            if key == "transforms":
                was, now = (f"a program with the digest {digest}" if digest else "none" for digest in (was, now))
            if key == "template":  # of which the digests say nothing to a person
                was, now = (
                    f"{of} ({str(digest)[:8]})"
                    for of, digest in ((before.get("template_name"), was), (entry.template, now))
                )
            raise UserError(
                f"{name}: {key} was {str(was).lower()} when the checkpoint was made and is {str(now).lower()} now, "
                "which changes its tokens or which of them are learned: set it as it was, give the dataset another "
                "task_name, or use --accept_changed_data to continue anyway"
            )
    if before["fingerprint"] not in corpus.dataset.fingerprints:
        raise UserError(
            f"{name} ({entry.path}) is not the file that the checkpoint was made with: restore it, give the new data a "
            "task_name of its own, or use --accept_changed_data to continue anyway"
        )


def load_states(
    files: Sequence[Path], saved: dict[str, Any], corpora: Sequence[Corpus], threads: int
) -> dict[int, np.ndarray]:
    """{lane: state} of all ranks' lanes in a checkpoint's files, arranged for `corpora`; `threads` read them."""
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(map_pt, files))
    states = {
        int(lane): state for part in parts for lane, state in zip(part["lanes"], part["states"].numpy(), strict=True)
    }
    return rearrange_states(states, saved["tasks"], [balanced(corpus) for corpus in corpora])
