"""What the state.json of a checkpoint says of the run that wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fm9g.checkpoint.folder import is_step
from fm9g.errors import UserError
from fm9g.files import read_json

Part = TypeVar("Part")
_PARTS = {"kind": str, "progress": dict, "stream": dict, "ranks": int, "settings": dict, "model": dict}


def _misformed(state: Any) -> str:
    """What a state.json lacks, or ""."""
    if not isinstance(state, dict):
        return "it is no object"
    for name, kind in _PARTS.items():
        if not isinstance(state.get(name), kind):
            return f"{name} is {'not there' if name not in state else 'not what it should be'}"
    step = state["progress"].get("step")
    return "" if isinstance(step, int) and step >= 0 else "progress has no step"


@dataclass(frozen=True)
class Saved:
    """A checkpoint's folder and its state.json."""

    folder: Path
    state: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, kind: str) -> Saved:
        """The checkpoint of a run of this kind; a UserError for one of another."""
        state = read_json(folder / "state.json")
        if wrong := _misformed(state):
            raise UserError(f"{folder / 'state.json'}: {wrong}: no checkpoint of a run, or a damaged one")
        if state["kind"] != kind:
            raise UserError(f"{folder} is a checkpoint of a {state['kind']} run, this is a {kind} run")
        if is_step(folder.name) and state["progress"]["step"] != int(folder.name):
            raise UserError(f"{folder}: its state.json is of step {state['progress']['step']}")
        return cls(folder, state)

    def part(self, name: str, kind: Callable[..., Part]) -> Part:
        """What `kind` makes of the entries of a part of the state, by its fields; of none, where it is not there."""
        try:
            return kind(**self.state.get(name, {}))
        except TypeError as error:
            wrong = f"{self.folder / 'state.json'}: {name} is not what this version writes ({error})"
        raise UserError(f"{wrong}: continue with the version that it is of")

    def files(self, name: str) -> list[Path]:
        """The files of all ranks, of which `name` is made with {rank}; a UserError where they are not just those."""
        wanted = [self.folder / name.format(rank=rank) for rank in range(self.state["ranks"])]
        found = set(self.folder.glob(re.sub(r"\{.*\}", "*", name)))
        for path in sorted(found.symmetric_difference(wanted)):
            wrong = "is missing" if path in wanted else "belongs to no rank"
            raise UserError(f"{path} {wrong}: the checkpoint was made by {len(wanted)} rank(s)")
        return wanted
