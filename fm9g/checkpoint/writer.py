"""Writing a checkpoint: by all ranks into a folder of another name, which is renamed when all of it is on the disk.

The order is what makes a kill at any moment harmless: files, manifest, `latest`, rename. `latest` comes before the
rename so that a folder that has all it should, but not its name yet, is known and gets it (`publish`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from fm9g import runtime
from fm9g.checkpoint.contents import Contents
from fm9g.checkpoint.folder import partial_name, weights_stem
from fm9g.checkpoint.host_copies import with_tensors
from fm9g.checkpoint.manifest import MANIFEST, write_manifest
from fm9g.checkpoint.shared_file import Written
from fm9g.checkpoint.summed_file import save_bytes, save_object
from fm9g.checkpoint.weights_files import WeightsFiles
from fm9g.errors import UserError
from fm9g.files import fsync_path, json_text, write_text
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.checksum import Part

STATE_VERSION = 1  # of state.json: one that has a version has a manifest beside it


class _Failed(Exception):
    """A rank could not do its part: all ranks are told alike."""


Gather = Callable[[bytes], list[bytes]]
"""Every rank's bytes on every rank."""


class CheckpointWriter:
    """Writes one checkpoint together with all other ranks."""

    def __init__(self, folder: Path, step: int, gather: Gather) -> None:
        self._folder, self.step, self._gather = folder, step, gather
        self._partial = folder / partial_name(step)

    def write(self, contents: Contents) -> str:
        """On return the checkpoint is complete; or it says why it could not be written, the same on all ranks, and what
        was there before is as it was."""
        shared = None
        if (weights := contents.weights) is not None:
            shared = WeightsFiles(self._partial, self.step, weights.described, weights.form)
        first = runtime.rank() == 0
        try:
            self._all(lambda: self._begin(shared) if first else None)
            shares = self._all(lambda: self._write_share(contents, shared))
            self._all(lambda: self._finish(contents.state, shared, shares) if first else None)
        except _Failed as failed:
            if first and not (self._partial / MANIFEST).exists():
                shutil.rmtree(self._partial, ignore_errors=True)  # room for the next
            return str(failed)
        return ""

    def _all(self, work: Callable[[], Any]) -> list[Any]:
        """What every rank's work returns, in JSON's types; _Failed on all ranks where it fails on one."""
        wrong, done = "", None
        try:
            done = work()
        except (OSError, UserError) as error:
            where = f": {self._partial}" if isinstance(error, OSError) and error.filename is None else ""
            wrong = f"rank {runtime.rank()}: {error}{where}"
        told = [json.loads(said) for said in self._gather(json.dumps([wrong, done]).encode())]
        if wrong := next((said for said, _ in told if said), ""):
            raise _Failed(wrong)
        return [done for _, done in told]

    def _begin(self, shared: WeightsFiles | None) -> None:
        if self._partial.exists():
            shutil.rmtree(self._partial)  # what a killed save of this run left
        self._partial.mkdir()
        if shared is not None:
            shared.create()

    def _write_share(self, contents: Contents, shared: WeightsFiles | None) -> Any:
        """Write what is this rank's; ([file name, crc, bytes], parts of the weights)."""
        if not self._partial.is_dir():
            raise UserError(f"does not see {self._partial}: output_dir must be shared by all nodes")
        files = [
            (name, *save_object(with_tensors(content, _on_host), self._partial / name))
            for name, content in contents.files.items()
        ]
        if shared is None or contents.weights is None:
            return files, []
        pieces = contents.weights.pieces
        nbytes = sum(piece.values.numel() * piece.values.element_size() for piece in pieces)
        with ProgressBar(shared.name, nbytes) as progress:
            return files, shared.write_pieces(pieces, progress)

    def _finish(self, state: dict[str, Any], shared: WeightsFiles | None, shares: list[Any]) -> None:
        parts = {name: Part(crc, nbytes) for files, _ in shares for name, crc, nbytes in files}
        texts = {"state.json": {"version": STATE_VERSION, **state}}
        if shared is not None:
            parts |= shared.finish(Written(*part) for _, written in shares for part in written)
            # beside the weights as the converters write it, so that they can check what they get
            texts[f"{weights_stem(self.step)}.json"] = state["model"]
        for name, value in texts.items():
            parts[name] = save_bytes(json_text(value).encode(), self._partial / name)
        fsync_path(self._partial)
        write_manifest(self._partial, parts)
        write_text(self._folder / "latest", f"{self.step}\n")
        publish(self._folder, self.step)


def _on_host(place: tuple[Any, ...], tensor: Tensor) -> Tensor:
    return tensor.cpu()


def publish(folder: Path, step: int) -> None:
    """Give a checkpoint that is complete its name."""
    target = folder / str(step)
    if target.exists():  # from before a resume at an earlier step: kept, under another name
        number = 1
        while (aside := target.with_name(f"{target.name}.superseded-{number}")).exists():
            number += 1
        os.rename(target, aside)
    os.rename(folder / partial_name(step), target)
    fsync_path(folder)
