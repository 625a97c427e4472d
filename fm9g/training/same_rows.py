"""Ranks that share rows must have read the same: each reads for itself, and may have a copy of the data of its own."""

from __future__ import annotations

import json
import zlib

from fm9g import runtime
from fm9g.commandline import command
from fm9g.data.stream.loader import StepBatch
from fm9g.errors import UserError


def difference(batch: StepBatch) -> float:
    """Which, added up over all ranks, is 0 where each group's ranks have read the same, and else is not."""
    if runtime.tp_size() == 1:
        return 0.0
    return float(_mark(batch) * (-1 if runtime.tp_rank() else runtime.tp_size() - 1))  # sums are exact below 2^53


def check_rows(total: float, batch: StepBatch) -> None:
    """A UserError on all ranks, naming one that has read other rows than its group's first, where `total` is not 0."""
    if not total:
        return
    damaged = next((skip.reason for _, skip in batch.skipped if skip.damaged), "")
    told = [json.loads(said) for said in runtime.gather_bytes(json.dumps([_mark(batch), damaged]).encode())]
    size = runtime.tp_size()
    for rank, (mark, reason) in enumerate(told):
        first = rank - rank % size
        if mark != told[first][0]:
            which, why = (rank, reason) if reason else (first, told[first][1])
            said = f"; a record of rank {which} is damaged: {why}" if why else ""
            raise UserError(
                f"step {batch.step + 1}: rank {rank} has read other rows than rank {first}, with which it shares them "
                f"(tp_size {size}){said}: give both the same data ({command('check')} reads a dataset whole), and "
                "transforms that draw no chance"
            )


def _mark(batch: StepBatch) -> int:
    """A checksum of what a rank learns from in a step."""
    mark = 0
    for strip in batch.strips:
        for values in (strip.tokens, strip.targets, *([] if strip.weights is None else [strip.weights])):
            mark = zlib.crc32(values.contiguous().numpy().tobytes(), mark)
        mark = zlib.crc32(repr((strip.lengths, strip.tasks)).encode(), mark)
    return mark
