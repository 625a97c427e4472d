"""Lazy readers of checkpoints: opening reads names and shapes; values are read piece by piece, when asked for.

Safetensors files are read with plain reads, not mapped, because mapped pages count as the process's
memory. Torch files (.pt, .bin) are mapped by torch.load(mmap=True, weights_only=True), and mapped anew each
REMAP_BYTES for the same reason. Who wants a tensor whole, to copy a part of it, has it mapped.
"""

from __future__ import annotations

import functools
import math
import pickle
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from fm9g.errors import UserError, shown
from fm9g.files import parse_json, read_json, require_file
from fm9g.tensors.forms import index_beside, is_index, is_safetensors
from fm9g.tensors.lazy import DTYPES, KEYS, PIECE_BYTES, LazyTensor, rows_per_piece, unsupported

REMAP_BYTES = 128 << 20
MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors format
MAX_AXES = 64
# What torch.load raises for bytes that are no checkpoint, depending on where in the file they are wrong.
UNREADABLE = (
    *(RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    struct.error,
)

Checkpoint = dict[str, LazyTensor]


def read_huggingface_folder(folder: Path) -> Checkpoint:
    """The tensors of a folder: its safetensors if there are any, else its pytorch_model*.bin; sharded or not.

    One file or an index of shards, as transformers has it, or shards without an index; a UserError for two of these.
    Of both formats a note says which is read.
    """
    if any(folder.glob("model*.safetensors")) and (others := sorted(folder.glob("pytorch_model*.bin"))):
        print(f"note: {folder}: its safetensors are read, and not {others[0].name}", file=sys.stderr)
    mapping = TorchFiles()
    readers: tuple[tuple[str, str, Callable[[Path], Checkpoint]], ...] = (
        ("model", ".safetensors", read_safetensors),
        ("pytorch_model", ".bin", mapping.read),
    )
    for stem, suffix, read in readers:
        single, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        if index.exists():
            tensors, named = _read_indexed(index, read)
            if single.exists() and named != [single.name]:
                raise UserError(
                    f"{folder}: holds both {single.name} and {index.name}: two checkpoints; remove one of them"
                )
            return tensors
        shards = sorted(folder.glob(f"{stem}-*-of-*{suffix}")) or sorted(folder.glob(f"{stem}-*{suffix}"))
        if single.exists() and shards and "-of-" in shards[0].name:
            raise UserError(
                f"{folder}: holds both {single.name} and {shards[0].name}: two checkpoints; remove one of them"
            )
        if files := [single] if single.exists() else shards:
            return _merge(files, read)
    names = " and no ".join(f"{stem}{suffix}" for stem, suffix, _ in readers)
    raise UserError(f"{folder}: no weights found: no {names}, as one file or in shards")


def read_weights(path: Path) -> Checkpoint:
    """The tensors of weights in our names, by what `path` is called: an index of shards, a safetensors file or a .pt.

    Of several shards one is a UserError.
    """
    if is_index(path):
        return _read_indexed(path, read_safetensors)[0]
    if (index := index_beside(path)) is not None:
        raise UserError(f"{path}: is one shard of several: give {index.name}, which names all")
    return read_safetensors(path) if is_safetensors(path) else read_pt(path)


def read_pt(path: Path) -> Checkpoint:
    """The tensors of a .pt file, a dict of tensors by name."""
    return TorchFiles().read(path)


def _merge(files: list[Path], read: Callable[[Path], Checkpoint]) -> Checkpoint:
    tensors: Checkpoint = {}
    origin: dict[str, Path] = {}
    for path in files:
        for name, tensor in read(path).items():
            if name in tensors:
                raise UserError(f"{name} is both in {origin[name]} and in {path}: the folder holds two checkpoints")
            tensors[name], origin[name] = tensor, path
    return tensors


def _read_indexed(index: Path, read: Callable[[Path], Checkpoint]) -> tuple[Checkpoint, list[str]]:
    """The tensors of the shards that an index names, and their names; what the index says of each must be so."""
    contents = read_json(index)
    weight_map = contents.get("weight_map") if isinstance(contents, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no weight_map object in it")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{index}: {name!r} is not the name of a file in the same folder")
        try:
            require_file(index.parent / name)
        except UserError as error:
            raise UserError(f"{index}: names {name[:100]}, which cannot be read: {str(error)[-300:]}") from None
    tensors = _merge([index.parent / name for name in names], read)
    wrong = sorted(set(weight_map) ^ set(tensors))
    if wrong:
        raise UserError(f"{index}: does not describe its files: {wrong[0]} and {len(wrong) - 1} more are in one only")
    return tensors, names


def read_safetensors(path: Path) -> Checkpoint:
    """The tensors of one safetensors file (https://github.com/huggingface/safetensors#format)."""
    size = require_file(path).stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= header_bytes <= min(size - 8, MAX_HEADER_BYTES):
            raise UserError(f"{path}: not a safetensors file, or cut short (a Git LFS pointer that was not pulled?)")
        header = parse_json(file.read(header_bytes), f"{path}, its header")
    if not isinstance(header, dict):
        raise UserError(f"{path}: not a safetensors file: its header is a {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    entries = {name: _Entry.read(path, name, entry) for name, entry in header.items()}
    start = 8 + header_bytes
    _check_layout(path, entries, size - start)
    mapped = functools.cache(lambda: _mapped_bytes(path, size))
    return {name: _safetensor(path, name, entry, start, mapped) for name, entry in entries.items()}


def _mapped_bytes(path: Path, size: int) -> torch.Tensor:
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be mapped: {_first_line(error)}") from None


class _Entry(NamedTuple):
    """What a safetensors header says of a tensor; begin and end count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @classmethod
    def read(cls, path: Path, name: str, entry: Any) -> _Entry:
        values = [entry.get(key) for key in ("dtype", "shape", "data_offsets")] if isinstance(entry, dict) else [None]
        match values:
            case [str(dtype), list(shape), [begin, end]] if (
                all(type(size) is int and 0 <= size < 2**63 for size in (*shape, begin, end))
                and len(shape) <= MAX_AXES
                and re.fullmatch(r"[A-Za-z0-9_]{1,30}", dtype)
            ):
                return cls(dtype, tuple(shape), begin, end)
        raise UserError(f"{path}: the header's entry for {shown(name)} is malformed: {shown(entry)}")


def _check_layout(path: Path, entries: dict[str, _Entry], data_bytes: int) -> None:
    """Tensors must follow each other without a gap or an overlap, and fill the file."""
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        known = entry.dtype in DTYPES
        nbytes = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize if known else entry.end - entry.begin
        if entry.begin != place or nbytes < 0 or entry.end - entry.begin != nbytes or entry.end > data_bytes:
            raise UserError(
                f"{path}: {name} does not lie in the file as its header says: the file is damaged or cut short"
            )
        place = entry.end
    if place != data_bytes:
        raise UserError(f"{path}: {data_bytes - place} bytes at its end are of no tensor: the file is damaged")


def _safetensor(
    path: Path, name: str, entry: _Entry, data_start: int, mapped_bytes: Callable[[], torch.Tensor]
) -> LazyTensor:
    begin, end = data_start + entry.begin, data_start + entry.end

    def known() -> torch.dtype:
        if entry.dtype not in DTYPES:
            raise UserError(f"{path}: {name} is {shown(entry.dtype)}: {unsupported(entry.dtype)}")
        return DTYPES[entry.dtype].torch

    def read(file: BinaryIO, nbytes: int) -> torch.Tensor:
        if not nbytes:
            return torch.empty(0, dtype=known())
        buffer = bytearray(nbytes)
        if file.readinto(buffer) != nbytes:  # type: ignore[attr-defined]
            raise UserError(f"{path}: ends within {name}: did it change while it was read?")
        return torch.frombuffer(buffer, dtype=known())

    def pieces() -> Iterator[torch.Tensor]:
        known()
        with open(path, "rb") as file:
            file.seek(begin)
            for start in range(begin, end, PIECE_BYTES):
                yield read(file, min(PIECE_BYTES, end - start))

    def read_rows(start: int, stop: int) -> torch.Tensor:
        row_bytes = (end - begin) // max(entry.shape[0] if entry.shape else 1, 1)
        with open(path, "rb") as file:
            file.seek(begin + start * row_bytes)
            return read(file, (stop - start) * row_bytes)

    def mapped() -> torch.Tensor:
        dtype = known()
        found = mapped_bytes()[begin:end]
        if begin % dtype.itemsize:  # the format lets tensors lie anywhere; no writer that is known puts them there
            found = found.clone()
        return found.view(dtype).view(entry.shape)

    return LazyTensor(entry.dtype, entry.shape, pieces, read_rows, mapped)


class TorchFiles:
    """Reads torch zip files with one of them mapped at a time, never more than about REMAP_BYTES of it resident."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        self._resident = 0

    def read(self, path: Path) -> Checkpoint:
        """The tensors of one file, which must hold a dict of tensors by name."""
        return {name: self._lazy(path, name, tensor) for name, tensor in self._mapped(path).items()}

    def _mapped(self, path: Path) -> dict[str, torch.Tensor]:
        if path != self._path or self._resident >= REMAP_BYTES:
            self._tensors = {}  # unmaps the file, and its pages no longer count
            self._tensors = map_tensors(path)
            self._path, self._resident = path, 0
        return self._tensors

    def _lazy(self, path: Path, name: str, tensor: torch.Tensor) -> LazyTensor:
        dtype, shape = KEYS.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")), tuple(tensor.shape)

        def pieces() -> Iterator[torch.Tensor]:
            step = rows_per_piece(shape, DTYPES[dtype].itemsize)
            for start in range(0, shape[0] if shape else 1, step):
                yield self._rows(path, name, start, start + step)

        return LazyTensor(
            *(dtype, shape, pieces),
            lambda start, stop: self._rows(path, name, start, stop),
            lambda: self._mapped(path)[name],
        )

    def _rows(self, path: Path, name: str, start: int, stop: int) -> torch.Tensor:
        rows = torch.atleast_1d(self._mapped(path)[name])[start:stop].contiguous()
        self._resident += rows.numel() * rows.element_size()
        return rows.view(-1)


def map_pt(path: Path) -> Any:
    """What a file of torch.save holds, its tensors mapped, not read. No code in it is run; a bad one is a UserError."""
    require_file(path)
    try:
        return torch.load(str(path), map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a checkpoint of tensors alone, or damaged; code in a file is never run: {_first_line(error)}"
        ) from None
    except UNREADABLE as error:
        raise UserError(
            f"{path}: not a readable checkpoint: not a zip file written by torch.save (torch 1.6 or later), or "
            f"damaged: {_first_line(error)}"
        ) from None


def map_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .pt or .bin file by name, mapped, not read; what else a file may hold is a UserError."""
    contents = map_pt(path)
    if not isinstance(contents, dict):
        raise UserError(f"{path}: expected tensors by name, found a {type(contents).__name__}")
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: expected tensors by name, but {shown(name)} is a {type(value).__name__}")
        for kind, is_so in (
            ("a sparse tensor", value.layout != torch.strided),
            ("a meta tensor, which has no values", value.is_meta),
            ("a quantized tensor", value.is_quantized),
            ("a nested tensor", value.is_nested),
        ):
            if is_so:
                raise UserError(f"{path}: {name} is {kind}: weights are plain tensors of floats")
    return contents


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
