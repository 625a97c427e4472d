"""Lazy readers of checkpoints: opening reads names and shapes; values are read piece by piece, when asked for.

Safetensors files are read with plain reads, not mapped, because mapped pages count as the process's
memory. Torch files (.pt, .bin) are mapped by torch.load(mmap=True, weights_only=True), and mapped anew each
REMAP_BYTES for the same reason.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fm9g.convert.lazy import DTYPES, PIECE_BYTES, LazyTensor
from fm9g.errors import UserError
from fm9g.files import read_json

REMAP_BYTES = 128 << 20
MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors format

Checkpoint = dict[str, LazyTensor]


def read_huggingface_folder(folder: Path) -> Checkpoint:
    """The tensors of a folder: its safetensors if there are any, else its pytorch_model*.bin; sharded or not."""
    mapping = TorchFiles()
    readers: tuple[tuple[str, Callable[[Path], Checkpoint]], ...] = (
        ("model*.safetensors", read_safetensors),
        ("pytorch_model*.bin", mapping.read),
    )
    for pattern, read in readers:
        index = folder / (pattern.replace("*", "") + ".index.json")
        if index.exists():
            return _read_indexed(index, read)
        files = sorted(folder.glob(pattern))
        if files:
            return _merge(files, read)
    patterns = " and no ".join(pattern for pattern, _ in readers)
    raise UserError(f"{folder}: no weights found: no {patterns}")


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


def _read_indexed(index: Path, read: Callable[[Path], Checkpoint]) -> Checkpoint:
    """The shards that an index names; what the index says of each must be so."""
    contents = read_json(index)
    weight_map = contents.get("weight_map") if isinstance(contents, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no weight_map object in it")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{index}: {name!r} is not the name of a file in the same folder")
        if not (index.parent / name).is_file():
            raise UserError(f"{index}: names {name}, which is not in the folder")
    tensors = _merge([index.parent / name for name in names], read)
    wrong = sorted(set(weight_map) ^ set(tensors))
    if wrong:
        raise UserError(f"{index}: does not describe its files: {wrong[0]} and {len(wrong) - 1} more are in one only")
    return tensors


def read_safetensors(path: Path) -> Checkpoint:
    """The tensors of one safetensors file (https://github.com/huggingface/safetensors#format)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= header_bytes <= min(size - 8, MAX_HEADER_BYTES):
            raise UserError(f"{path}: not a safetensors file, or cut short (a Git LFS pointer that was not pulled?)")
        try:
            header = json.loads(file.read(header_bytes))
        except ValueError as error:
            raise UserError(f"{path}: not a safetensors file: its header is not JSON: {error}") from None
    header.pop("__metadata__", None)
    return {name: _safetensor(path, name, entry, 8 + header_bytes, size) for name, entry in header.items()}


def _safetensor(path: Path, name: str, entry: dict[str, Any], data_start: int, file_size: int) -> LazyTensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        begin, end = (data_start + int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the header's entry for {name} is malformed ({error!r})") from None
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize if dtype in DTYPES else end - begin
    if end > file_size or not data_start <= begin <= end or end - begin != nbytes:
        raise UserError(f"{path}: {name} does not lie in the file as its header says: the file is damaged or cut short")

    def pieces() -> Iterator[torch.Tensor]:
        with open(path, "rb") as file:
            file.seek(begin)
            for start in range(begin, end, PIECE_BYTES):
                buffer = bytearray(min(PIECE_BYTES, end - start))
                if file.readinto(buffer) != len(buffer):
                    raise UserError(f"{path}: ends within {name}: did it change while it was read?")
                yield torch.frombuffer(buffer, dtype=DTYPES[dtype].torch)

    return LazyTensor(dtype, shape, pieces)


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
            self._tensors = _load_mapped(path)
            self._path, self._resident = path, 0
        return self._tensors

    def _lazy(self, path: Path, name: str, tensor: torch.Tensor) -> LazyTensor:
        dtypes = {dtype.torch: key for key, dtype in DTYPES.items()}
        dtype, shape = dtypes.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)

        def pieces() -> Iterator[torch.Tensor]:
            row_bytes = math.prod(shape[1:]) * DTYPES[dtype].itemsize
            step = max(1, PIECE_BYTES // max(1, row_bytes))
            for start in range(0, shape[0], step):
                yield self._rows(path, name, start, start + step)

        return LazyTensor(dtype, shape, pieces)

    def _rows(self, path: Path, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self._mapped(path)[name][start:stop].contiguous()
        self._resident += rows.numel() * rows.element_size()
        return rows.view(-1)


def _load_mapped(path: Path) -> dict[str, torch.Tensor]:
    try:
        contents = torch.load(str(path), map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: holds more than tensors, and code in a file is never run: {error}") from None
    except (RuntimeError, EOFError) as error:
        raise UserError(
            f"{path}: not a zip file written by torch.save (torch 1.6 or later), or damaged: {error}"
        ) from None
    if not isinstance(contents, dict) or not contents:
        raise UserError(f"{path}: expected a dict of tensors by name, found {type(contents).__name__}")
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: expected a dict of tensors by name, but {name!r} is a {type(value).__name__}")
    return contents
