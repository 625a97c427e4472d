"""How long the records of an indexed dataset are: their bytes from the index, their estimated tokens from meta.json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fm9g.data.index.dataset import IndexedDataset, load_ends
from fm9g.errors import UserError
from fm9g.figures import new_figure, write_png

_WINDOW = 1 << 20  # bounds read at once
# powers of two, below 1 KB with three steps between them: short texts differ by less than a factor of two
_QUARTERS = [quarter << k for k in range(8) for quarter in range(4, 8)]
EDGES = np.array([1, 2, 3, *_QUARTERS, *(1 << k for k in range(10, 63))], dtype=np.int64)
_UNITS = ("", "K", "M", "G", "T", "P", "E")


@dataclass(frozen=True)
class Lengths:
    """Bytes of records, newline included. `histogram[k]` counts those of EDGES[k] to EDGES[k + 1] - 1 bytes."""

    records: int
    nbytes: int
    shortest: tuple[int, int]  # bytes, and the number of the first such record
    longest: tuple[int, int]
    histogram: np.ndarray

    @property
    def mean(self) -> float:
        """Bytes a record."""
        return self.nbytes / self.records

    def bins(self) -> list[tuple[str, int]]:
        """(label, count) from the shortest to the longest record's bin, empty ones between them included."""
        filled = np.flatnonzero(self.histogram)
        return [
            (f"{_edge(k)}-{_edge(k + 1)}", int(self.histogram[k])) for k in range(int(filled[0]), int(filled[-1]) + 1)
        ]


def _edge(k: int) -> str:
    """EDGES[k] as in "640" or "64K"."""
    edge = int(EDGES[k])
    unit = (edge.bit_length() - 1) // 10
    return f"{edge >> 10 * unit}{_UNITS[unit]}"


def measure_lengths(dataset: IndexedDataset) -> Lengths:
    """Go through all bounds, in memory that does not depend on their number."""
    histogram: np.ndarray = np.zeros(len(EDGES), dtype=np.int64)
    shortest, longest, first = (dataset.nbytes + 1, 0), (0, 0), 0
    for lengths in _windows(dataset.path):
        low, high = int(lengths.argmin()), int(lengths.argmax())
        if lengths[low] <= 0:  # opening a big dataset looks at samples only
            raise UserError(
                f"{dataset.path}: the index is damaged: bounds do not increase at record {first + low}; rebuild it"
            )
        shortest = min(shortest, (int(lengths[low]), first + low))
        if lengths[high] > longest[0]:
            longest = int(lengths[high]), first + high
        histogram += np.bincount(np.searchsorted(EDGES, lengths, side="right") - 1, minlength=len(EDGES))
        first += len(lengths)
    return Lengths(len(dataset), dataset.nbytes, shortest, longest, histogram)


def _windows(folder: Path) -> Iterator[np.ndarray]:
    """The lengths of all records, int64, some at a time."""
    ends, previous = load_ends(folder)[0], 0
    for start in range(0, len(ends), _WINDOW):
        count = min(_WINDOW, len(ends) - start)
        if isinstance(ends, np.memmap):  # read, so that the map's pages do not add up to the whole index
            window = np.fromfile(str(ends.filename), ends.dtype, count, offset=ends.offset + start * ends.itemsize)
        else:
            window = ends[start : start + count]
        window = window.astype(np.int64)
        yield np.diff(window, prepend=previous)
        previous = int(window[-1])


def token_bins(meta: dict[str, Any]) -> list[tuple[str, int]]:
    """(label, count) of `length_distribute` in meta.json; empty where an old folder has none."""
    found = meta.get("length_distribute")
    return [(str(label), int(count)) for label, count in found.items()] if isinstance(found, dict) else []


def plot_lengths(path: str | os.PathLike[str], lengths: Lengths, meta: dict[str, Any]) -> None:
    """Write both histograms as a PNG, which is complete or not there; UserError where matplotlib is missing."""
    panels = [("bytes of a record", lengths.bins()), ("estimated tokens of a record (meta.json)", token_bins(meta))]
    panels = [panel for panel in panels if panel[1]]
    figure = new_figure(10, 4 * len(panels))
    figure.suptitle(f"{lengths.records:,} records, {lengths.nbytes:,} bytes")
    for axes, (title, bins) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        drawn = axes.bar([label for label, _ in bins], [count for _, count in bins])
        axes.bar_label(drawn, labels=[f"{count:,}" if count else "" for _, count in bins], fontsize=8)
        axes.set_xlabel(title)
        axes.set_ylabel("records")
        axes.tick_params(axis="x", rotation=30)
    write_png(path, figure)
