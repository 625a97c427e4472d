"""Streaming writers: a .pt file as torch.save writes it, and a folder of safetensors shards as the Hub has them.

torch.save wants all tensors in memory, or mapped, which counts as memory too. A .pt file is a zip file of
a pickle that describes the tensors and of one entry with the bytes of each; here the pickle is written
from descriptions, and the bytes follow piece by piece.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fm9g.errors import UserError
from fm9g.files import fsync_path, write_json
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.lazy import DTYPES, LazyTensor, raw_bytes
from fm9g.tensors.stored_zip import StoredZip

SHARD_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes from "5GB", "500MB", "2GiB" or a plain number."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.strip().upper())
    size = int(float(matched.group(1)) * SHARD_UNITS[matched.group(2) or ""]) if matched else 0
    if size <= 0:
        raise UserError(f"a size must be a positive number of bytes, like 5GB, 500MB or 2GiB, not {text!r}")
    return size


class _Storage:
    """Stands in a pickle for the bytes of entry data/<key>."""

    def __init__(self, key: str, tensor: LazyTensor) -> None:
        self.persistent_id = ("storage", getattr(torch, DTYPES[tensor.dtype].storage), key, "cpu", tensor.numel)


class _Description:
    """Pickles as torch.save pickles a contiguous tensor."""

    def __init__(self, key: str, tensor: LazyTensor) -> None:
        self._key, self._tensor = key, tensor

    def __reduce__(self) -> tuple[Any, ...]:
        shape = self._tensor.shape
        strides = [1]
        for size in reversed(shape[1:]):
            strides.insert(0, strides[0] * size)
        storage = _Storage(self._key, self._tensor)
        # (storage, storage_offset, size, stride, requires_grad, backward_hooks)
        arguments: tuple[Any, ...] = (storage, 0, shape, tuple(strides), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.persistent_id if isinstance(obj, _Storage) else None


def write_pt(path: Path, tensors: Mapping[str, LazyTensor], progress: ProgressBar) -> None:
    """Write what torch.save({name: tensor}, path) would, with one piece of one tensor in memory at a time."""
    described = io.BytesIO()
    keys = {name: str(number) for number, name in enumerate(tensors)}
    _Pickler(described, protocol=2).dump({name: _Description(keys[name], tensors[name]) for name in tensors})
    with open(path, "wb") as file:
        archive = StoredZip(file)
        archive.add("archive/data.pkl", len(described.getvalue()), [described.getvalue()])
        archive.add("archive/byteorder", 6, [b"little"])
        for name, tensor in tensors.items():
            archive.add(f"archive/data/{keys[name]}", tensor.nbytes, _counted(tensor, progress))
        archive.add("archive/version", 2, [b"3\n"])
        archive.finish()
    fsync_path(path)


def _counted(tensor: LazyTensor, progress: ProgressBar) -> Iterator[memoryview]:
    for piece in tensor.pieces():
        contents = raw_bytes(piece)
        yield contents
        progress.add(contents.nbytes)


def plan_shards(tensors: Mapping[str, LazyTensor], max_bytes: int) -> list[list[str]]:
    """Split names, in order, into shards of at most `max_bytes`; a larger tensor has a shard of its own."""
    shards: list[list[str]] = []
    size = 0
    for name, tensor in tensors.items():
        if not shards or size + tensor.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def write_safetensors(folder: Path, tensors: Mapping[str, LazyTensor], max_bytes: int, progress: ProgressBar) -> None:
    """Write model.safetensors, or shards of at most `max_bytes` and model.safetensors.index.json."""
    shards = plan_shards(tensors, max_bytes)
    if len(shards) == 1:
        write_safetensors_file(folder / "model.safetensors", tensors, progress)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors_file(folder / file_name, {name: tensors[name] for name in names}, progress)
        weight_map.update(dict.fromkeys(names, file_name))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_safetensors_file(path: Path, tensors: Mapping[str, LazyTensor], progress: ProgressBar) -> None:
    # Wider elements first, so that each tensor starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    offset = 0
    for name in names:
        tensor = tensors[name]
        span = [offset, offset + tensor.nbytes]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            for contents in _counted(tensors[name], progress):
                file.write(contents)
    fsync_path(path)
