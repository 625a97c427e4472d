"""What tells the weights in a file from others, soon found however large they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from fm9g.tensors.lazy import DTYPES, LazyTensor, raw_bytes
from fm9g.tensors.readers import read_weights

LOOKED_AT = 64  # values of a tensor at either end


def fingerprint(path: Path) -> str:
    """That of weights in our names, whatever their form."""
    return fingerprint_of(read_weights(path))


def fingerprint_of(weights: Mapping[str, LazyTensor]) -> str:
    """sha256, hex, of names, shapes and dtypes of tensors, and the first and last values of each."""
    digest = sha256()
    for name in sorted(weights):
        tensor = weights[name]
        known = DTYPES.get(tensor.dtype)  # of others, which nothing here is trained from, values are not looked at
        digest.update(f"{name} {list(tensor.shape)} {known.torch if known else tensor.dtype}\n".encode())
        for part in _ends(tensor) if known else ():
            digest.update(raw_bytes(part))
    return digest.hexdigest()


def _ends(tensor: LazyTensor) -> tuple[Tensor, Tensor]:
    """The first and the last LOOKED_AT values, or as many as there are."""
    assert tensor.read_rows is not None, "weights to look at lie in files"
    rows = tensor.shape[0] if tensor.shape else 1
    some = min(rows, math.ceil(LOOKED_AT * rows / max(tensor.numel, 1)))
    return tensor.read_rows(0, some)[:LOOKED_AT], tensor.read_rows(rows - some, rows)[-LOOKED_AT:]
