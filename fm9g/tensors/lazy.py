"""Tensors that are known by name, dtype and shape, and read a few megabytes at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fm9g.errors import UserError

PIECE_BYTES = 4 << 20  # how much of a tensor is in memory at a time


class Dtype(NamedTuple):
    """One number format in the spellings of everything that names it."""

    torch: torch.dtype
    config: str  # ModelConfig.dtype
    huggingface: str  # config.json's torch_dtype
    storage: str  # the class that a .pt file's pickle names
    itemsize: int


# Keys are the spelling of safetensors headers. Other formats are refused by name: see unsupported().
DTYPES = {
    "F32": Dtype(torch.float32, "float32", "float32", "FloatStorage", 4),
    "F16": Dtype(torch.float16, "fp16", "float16", "HalfStorage", 2),
    "BF16": Dtype(torch.bfloat16, "bf16", "bfloat16", "BFloat16Storage", 2),
}
KEYS = {dtype.torch: key for key, dtype in DTYPES.items()}
DTYPE_ARGUMENTS = ("bf16", "bfloat16", "fp16", "float16", "fp32", "float32")


def parse_dtype(text: str) -> str:
    """The key of DTYPES for what a user types: one of DTYPE_ARGUMENTS."""
    for key, dtype in DTYPES.items():
        if text.lower() in (key.lower(), dtype.config, dtype.huggingface):
            return key
    if text.lower() == "fp32":
        return "F32"
    raise UserError(f"dtype must be one of {', '.join(DTYPE_ARGUMENTS)}, not {text!r}")


def unsupported(dtype: str) -> str:
    """Why a tensor of a format that is no key of DTYPES, in safetensors' spelling or torch's, is no weight here."""
    if dtype in ("F64", "float64"):
        return "convert it to float32 first"
    if re.match(r"(F|float)[468]_|q?u?int[1-8]$|[UI]8$|quint|qint", dtype):
        return "of a quantized checkpoint: save it dequantized first"
    return "weights are float32, float16 or bfloat16"


def rows_per_piece(shape: tuple[int, ...], itemsize: int) -> int:
    """How many entries of the first axis make about PIECE_BYTES."""
    return max(1, PIECE_BYTES // max(1, math.prod(shape[1:]) * itemsize))


@dataclass(frozen=True)
class Described:
    """What a tensor is, without its values."""

    dtype: str  # a key of DTYPES, or the name of a format that is not supported
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class LazyTensor(Described):
    """`pieces()` reads the tensor as flat tensors in row-major order, each of about PIECE_BYTES.

    `read_rows(start, stop)` reads some of its rows, flat; None where they can only be had in order. `mapped()` is the
    tensor in its shape, mapped from its file and not read; None where it lies in no file.
    """

    pieces: Callable[[], Iterator[torch.Tensor]]
    read_rows: Callable[[int, int], torch.Tensor] | None = None
    mapped: Callable[[], torch.Tensor] | None = None


def held(tensor: torch.Tensor) -> LazyTensor:
    """A tensor in memory, as others are that lie in files."""
    return LazyTensor(
        KEYS[tensor.dtype],
        tuple(tensor.shape),
        lambda: iter([tensor.flatten()]),
        lambda start, stop: tensor[start:stop].flatten(),
    )


def as_dtype(name: str, tensor: LazyTensor, dtype: str | None) -> LazyTensor:
    """`tensor` rounded to `dtype` (None: as it is); a finite value that overflows is a UserError with `name`."""
    if dtype is None or dtype == tensor.dtype:
        return tensor
    target = DTYPES[dtype]

    def rounded(piece: torch.Tensor) -> torch.Tensor:
        converted = piece.to(target.torch)
        if bool((converted.isinf() & piece.isfinite()).any()):
            raise UserError(f"{name}: values beyond the range of {target.huggingface}; choose another dtype")
        return converted

    read_rows = tensor.read_rows
    return LazyTensor(
        dtype,
        tensor.shape,
        lambda: map(rounded, tensor.pieces()),
        None if read_rows is None else lambda start, stop: rounded(read_rows(start, stop)),
    )


def raw_bytes(piece: torch.Tensor) -> memoryview:
    """The bytes of a flat tensor, without a copy: NaN payloads and signed zeros stay as they are."""
    return _bits(piece).numpy().data


def _bits(piece: torch.Tensor) -> torch.Tensor:
    return piece.resolve_neg().view(torch.uint8)  # a tensor may be stored with its sign still to be turned


def same_bits(first: LazyTensor, second: LazyTensor) -> bool:
    """Whether two tensors of one checkpoint hold the same bytes."""
    if (first.dtype, first.shape) != (second.dtype, second.shape) or first.dtype not in DTYPES:
        return False
    pairs = zip(first.pieces(), second.pieces(), strict=True)  # one format, one shape: the pieces have the same bounds
    return all(torch.equal(_bits(one), _bits(other)) for one, other in pairs)


def main_dtype(tensors: list[LazyTensor]) -> str:
    """The key of DTYPES that most values have: what a config can say of a checkpoint with several formats."""
    return max(DTYPES, key=lambda dtype: sum(tensor.numel for tensor in tensors if tensor.dtype == dtype))
