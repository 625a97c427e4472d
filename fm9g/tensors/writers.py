"""Streaming writers: a .pt file as torch.save writes it, and a folder of safetensors shards as the Hub has them.

torch.save wants all tensors in memory, or mapped, which counts as memory too. Here they follow piece by piece.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm9g.errors import UserError, shown
from fm9g.files import fsync_path, write_json
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.forms import INDEX, shard_name
from fm9g.tensors.layout import Layout, lay_out_pt, lay_out_safetensors
from fm9g.tensors.lazy import Described, LazyTensor, raw_bytes

SHARD_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_MOST = 1 << 63  # bytes: no file can be larger


def parse_size(text: str) -> int:
    """Bytes from "5GB", "500MB", "2GiB" or a plain number."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.strip().upper())
    size = float(matched.group(1)) * SHARD_UNITS[matched.group(2) or ""] if matched else 0
    if not 1 <= size < _MOST:
        raise UserError(f"a size must be a positive number of bytes, like 5GB, 500MB or 2GiB, not {shown(text)}")
    return int(size)


def write_pt(path: Path, tensors: Mapping[str, LazyTensor], progress: ProgressBar) -> None:
    """Write what torch.save({name: tensor}, path) would, with one piece of one tensor in memory at a time."""
    _write(path, tensors, lay_out_pt(tensors), progress)


def plan_shards(name: str, tensors: Mapping[str, Described], max_bytes: int) -> dict[str, list[str]]:
    """{file: its tensors} of shards called after `name`: tensors in order, at most `max_bytes` of them in a file; a
    larger one has a file of its own."""
    shards: list[list[str]] = []
    size = 0
    for key, tensor in tensors.items():
        if not shards or size + tensor.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += tensor.nbytes
    return {shard_name(name, number, len(shards)): keys for number, keys in enumerate(shards, 1)}


def index_of(shards: Mapping[str, Sequence[str]], tensors: Mapping[str, Described]) -> dict[str, Any]:
    """What the index of such shards holds."""
    weight_map = {key: file for file, keys in shards.items() for key in keys}
    total = sum(tensor.nbytes for tensor in tensors.values())
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def write_safetensors(folder: Path, tensors: Mapping[str, LazyTensor], max_bytes: int, progress: ProgressBar) -> None:
    """Write model.safetensors, or shards of at most `max_bytes` and model.safetensors.index.json."""
    shards = plan_shards("model", tensors, max_bytes)
    if len(shards) == 1:
        write_safetensors_file(folder / "model.safetensors", tensors, progress)
        return
    for file, names in shards.items():
        write_safetensors_file(folder / file, {name: tensors[name] for name in names}, progress)
    write_json(folder / f"model{INDEX}", index_of(shards, tensors))


def write_safetensors_file(path: Path, tensors: Mapping[str, LazyTensor], progress: ProgressBar) -> None:
    """Write one file."""
    _write(path, tensors, lay_out_safetensors(tensors), progress)


def _write(path: Path, tensors: Mapping[str, LazyTensor], layout: Layout, progress: ProgressBar) -> None:
    crcs = {}
    with open(path, "wb") as file:
        for name, start in layout.starts.items():
            file.seek(start)
            crcs[name] = 0
            for piece in tensors[name].pieces():
                contents = raw_bytes(piece)
                crcs[name] = zlib.crc32(contents, crcs[name])
                file.write(contents)
                progress.add(contents.nbytes)
            written, announced = file.tell() - start, tensors[name].nbytes
            assert written == announced, f"{name}: {written} bytes, {announced} announced"
        for offset, data in layout.frame(crcs):
            file.seek(offset)
            file.write(data)
    fsync_path(path)
