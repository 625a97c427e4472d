"""What the state.json of a checkpoint says of the run that wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        return cls(folder, state)
