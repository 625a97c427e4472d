"""How a saved stream goes on where its mixture or its datasets have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.lane_state import LaneState
from fm9g.data.stream.loader import LANES_PER_ROW
from fm9g.data.stream.order import Generation, RecordOrder

Generations = dict[str, list[Generation]]
"""By task: the dataset as it was when the run began, and as it was each time records had been appended."""


def extend_generations(
    corpora: Sequence[Corpus], seed: int, saved: dict[str, Any], states: dict[int, np.ndarray]
) -> Generations:
    """The saved run's generations, and one more for each dataset that records have been appended to since.

    `saved` is what the checkpoint says of its stream; `states` are arranged for the present mixture.
    """
    before = {task["name"]: task for task in saved["tasks"]}
    result: Generations = {}
    for column, corpus in enumerate(corpora):
        task = before.get(corpus.entry.task_name)
        known = [Generation(*pair) for pair in task["generations"]] if task else [Generation(0, corpus.records)]
        if corpus.records > known[-1].records and task and task["fingerprint"] != corpus.dataset.fingerprint:
            order = RecordOrder(known, seed, corpus.entry.task_name)
            stride = LANES_PER_ROW * saved["rows_per_step"]
            last = ((lane, LaneState.unpack(state).begun(column)) for lane, state in states.items())
            begun = max((lane + stride * number for lane, number in last if number >= 0), default=-1)
            known.append(Generation(order.epoch(max(begun, 0)), corpus.records))
        result[corpus.entry.task_name] = known
    return result


Balanced = tuple[str, float, float | None, str]
"""Of a dataset the name, the share, the epochs (None: for ever) and the fingerprint: what a balance depends on."""


def balanced(corpus: Corpus) -> Balanced:
    """What a dataset's balance depends on."""
    return corpus.entry.task_name, corpus.entry.share, corpus.entry.epochs, corpus.dataset.fingerprint


def rearrange_states(
    states: dict[int, np.ndarray], before: list[dict[str, Any]], now: list[Balanced]
) -> dict[int, np.ndarray]:
    """Keep each dataset's position under its name; the balance of tokens restarts when what it depends on has changed.

    A dataset that had ended and goes on has no claim to what the others read meanwhile.
    """
    old = {task["name"]: index for index, task in enumerate(before)}
    was = [(task["name"], task["share"], task.get("epochs", "unknown"), task["fingerprint"]) for task in before]
    if was == now:
        return states
    same_balance = set(was) == set(now)
    corpora = {new: old[name] for new, (name, *_) in enumerate(now) if name in old}
    return {
        lane: LaneState.unpack(state).arranged(len(now), corpora, same_balance).pack() for lane, state in states.items()
    }
