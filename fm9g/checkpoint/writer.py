"""Writing a checkpoint: by all ranks into a folder of another name, which is renamed when all are done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from fm9g import runtime
from fm9g.checkpoint.folder import weights_name
from fm9g.checkpoint.weights import write_weights
from fm9g.errors import UserError
from fm9g.files import fsync_path, write_json, write_text


class CheckpointWriter:
    """Writes one checkpoint together with all other ranks."""

    def __init__(self, folder: Path, step: int) -> None:
        self._target = folder / str(step)
        self._partial = folder / f".{step}.partial"

    def write(
        self, files: dict[str, Any], state: dict[str, Any], model: Any = None, names: Collection[str] = ()
    ) -> None:
        """Write this rank's `files` {name: contents}, the weights `names` of the model and rank 0's `state`.

        On return the checkpoint is complete on every rank.
        """
        first = runtime.rank() == 0
        if first:
            shutil.rmtree(self._partial, ignore_errors=True)  # what a killed save of this run left
            self._partial.mkdir()
        runtime.barrier()
        if not self._partial.is_dir():
            raise UserError(
                f"rank {runtime.rank()} does not see {self._partial}: output_dir must be shared by all nodes"
            )
        for name, contents in files.items():
            torch.save(contents, self._partial / name)
            fsync_path(self._partial / name)
        if model is not None:
            write_weights(model, self._partial / weights_name(int(self._target.name)), names)
        runtime.barrier()
        if first:
            write_json(self._partial / "state.json", state)
            if model is not None:  # beside the weights as the converters write it, so that they can check what they get
                write_json((self._partial / weights_name(int(self._target.name))).with_suffix(".json"), state["model"])
            fsync_path(self._partial)
            self._publish()
        runtime.barrier()

    def _publish(self) -> None:
        if self._target.exists():  # from before a resume at an earlier step: kept, under another name
            number = 1
            while (aside := self._target.with_name(f"{self._target.name}.superseded-{number}")).exists():
                number += 1
            os.rename(self._target, aside)
        os.rename(self._partial, self._target)
        fsync_path(self._target.parent)
        write_text(self._target.parent / "latest", f"{self._target.name}\n")
