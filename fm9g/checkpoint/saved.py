"""What the state.json of a checkpoint says of the run that wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.checkpoint.folder import is_step
from fm9g.errors import UserError
from fm9g.files import read_json


@dataclass(frozen=True)
class Saved:
    """A checkpoint's folder and its state.json."""

    folder: Path
    state: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, kind: str) -> Saved:
        """The checkpoint of a run of this kind; a UserError for one of another."""
        state = read_json(folder / "state.json")
        if state["kind"] != kind:
            raise UserError(f"{folder} is a checkpoint of a {state['kind']} run, this is a {kind} run")
        if is_step(folder.name) and state["progress"]["step"] != int(folder.name):
            raise UserError(f"{folder}: its state.json is of step {state['progress']['step']}")
        return cls(folder, state)

    def files(self, name: str) -> list[Path]:
        """The files of all ranks, of which `name` is made with {rank}; a UserError where they are not just those."""
        wanted = [self.folder / name.format(rank=rank) for rank in range(self.state["ranks"])]
        found = set(self.folder.glob(re.sub(r"\{.*\}", "*", name)))
        for path in sorted(found.symmetric_difference(wanted)):
            wrong = "is missing" if path in wanted else "belongs to no rank"
            raise UserError(f"{path} {wrong}: the checkpoint was made by {len(wanted)} rank(s)")
        return wanted
