"""Where the bytes of each tensor lie in a file of tensors: a .pt as torch.save writes it, or safetensors.

Known from names, formats and shapes alone, so that several processes can write one file, each what it holds.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from fm9g.tensors import checksum
from fm9g.tensors.lazy import DTYPES, Described
from fm9g.tensors.stored_zip import StoredZip


class Layout(NamedTuple):
    """`starts` has the offset of each tensor's first byte, in the file's order; `frame`, called with the checksums of
    the tensors, (offset, bytes) of all the rest."""

    starts: dict[str, int]
    frame: Callable[[Mapping[str, int]], Iterator[tuple[int, bytes]]]


class _Storage:
    """Stands in a pickle for the bytes of entry data/<key>."""

    def __init__(self, key: str, tensor: Described) -> None:
        self.persistent_id = ("storage", getattr(torch, DTYPES[tensor.dtype].storage), key, "cpu", tensor.numel)


class _Description:
    """Pickles as torch.save pickles a contiguous tensor."""

    def __init__(self, key: str, tensor: Described) -> None:
        self._key, self._tensor = key, tensor

    def __reduce__(self) -> tuple[Any, ...]:
        shape = self._tensor.shape
        strides = tuple(math.prod(max(size, 1) for size in shape[axis + 1 :]) for axis in range(len(shape)))
        storage = _Storage(self._key, self._tensor)
        # (storage, storage_offset, size, stride, requires_grad, backward_hooks)
        arguments: tuple[Any, ...] = (storage, 0, shape, strides, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.persistent_id if isinstance(obj, _Storage) else None


def lay_out_pt(tensors: Mapping[str, Described]) -> Layout:
    """The file that torch.save({name: tensor}) would make."""
    described = io.BytesIO()
    keys = {name: str(number) for number, name in enumerate(tensors)}
    _Pickler(described, protocol=2).dump({name: _Description(keys[name], tensors[name]) for name in tensors})
    archive = StoredZip()

    def add(name: str, data: bytes) -> tuple[int, bytes]:
        return archive.add(f"archive/{name}", len(data)), data

    before = [add("data.pkl", described.getvalue()), add("byteorder", b"little")]
    starts = {name: archive.add(f"archive/data/{keys[name]}", tensor.nbytes) for name, tensor in tensors.items()}
    after = [add("version", b"3\n")]

    def frame(crcs: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
        yield from before + after
        first, last = ([checksum.of_bytes(data).crc for _, data in entries] for entries in (before, after))
        yield from archive.frame([*first, *(crcs[name] for name in tensors), *last])

    return Layout(starts, frame)


def lay_out_safetensors(tensors: Mapping[str, Described]) -> Layout:
    """A safetensors file as the Hub has them."""
    # Wider elements first, so that each tensor starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    end = 0
    for name in names:
        tensor = tensors[name]
        span = [end, end + tensor.nbytes]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
        end = span[1]
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    before = struct.pack("<Q", len(encoded)) + encoded
    return Layout(
        {name: len(before) + header[name]["data_offsets"][0] for name in names}, lambda crcs: iter([(0, before)])
    )
