"""The digest of a run's rows: equal digests mean equal data, whatever the number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from fm9g import runtime
from fm9g.data.stream.loader import Plan


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
            ranks = runtime.gather_bytes(b"".join(self.pending))[:: runtime.tp_size()]
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
