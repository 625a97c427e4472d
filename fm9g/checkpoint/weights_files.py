"""The files of a checkpoint's weights, which all ranks write: one .pt, or shards of safetensors and their index.

How tensors are dealt to shards is known from their names and shapes alone, so it is the same on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fm9g.checkpoint.folder import weights_name, weights_stem
from fm9g.checkpoint.shared_file import Piece, SharedFile, Written
from fm9g.checkpoint.summed_file import save_bytes
from fm9g.files import json_text
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.checksum import Part
from fm9g.tensors.forms import PT, SAFETENSORS
from fm9g.tensors.layout import Layout, lay_out_pt, lay_out_safetensors
from fm9g.tensors.lazy import Described
from fm9g.tensors.writers import index_of, plan_shards

SHARD_BYTES = 5 * 10**9  # of tensors in a file; a larger tensor has one of its own

_LAY_OUT: dict[str, Callable[[Mapping[str, Described]], Layout]] = {PT: lay_out_pt, SAFETENSORS: lay_out_safetensors}


class SharedTensors(NamedTuple):
    """Tensors, what this rank holds of them, and the form of their files."""

    described: dict[str, Described]
    pieces: Sequence[Piece]
    form: str = PT


class WeightsFiles:
    """Those of one checkpoint, the same on every rank."""

    def __init__(self, folder: Path, step: int, described: Mapping[str, Described], form: str) -> None:
        self._folder, self._described = folder, described
        self.name = weights_name(step, form)  # of the .pt, or of the index
        sharded = form == SAFETENSORS
        self._names: dict[str, list[str]] = (
            plan_shards(weights_stem(step), described, SHARD_BYTES) if sharded else {self.name: list(described)}
        )
        self._files = {
            file: SharedFile(folder / file, {name: described[name] for name in names}, _LAY_OUT[form])
            for file, names in self._names.items()
        }
        self._index = index_of(self._names, described) if sharded else None

    def create(self) -> None:
        """Make them, on one rank: they must be there before pieces are written."""
        for file in self._files:
            (self._folder / file).touch()

    def write_pieces(self, pieces: Iterable[Piece], progress: ProgressBar) -> list[Written]:
        """Write what this rank holds where it belongs, and onto the disk."""
        of_file: dict[str, list[Piece]] = {file: [] for file in self._files}
        file_of = {name: file for file, names in self._names.items() for name in names}
        for piece in pieces:
            of_file[file_of[piece.name]].append(piece)
        return [
            written
            for file, mine in of_file.items()
            if mine
            for written in self._files[file].write_pieces(mine, progress)
        ]

    def finish(self, written: Iterable[Written]) -> dict[str, Part]:
        """Write, on one rank, what is around the tensors, and the index; {file: its checksum}. `written` is what all
        ranks have."""
        of_tensor: dict[str, list[Written]] = {name: [] for name in self._described}
        for part in written:
            of_tensor[part.name].append(part)
        sums = {
            file: self._files[file].finish(part for name in names for part in of_tensor[name])
            for file, names in self._names.items()
        }
        if self._index is not None:
            sums[self.name] = save_bytes(json_text(self._index).encode(), self._folder / self.name)
        return sums
