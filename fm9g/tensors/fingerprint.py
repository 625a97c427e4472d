"""What tells the weights in a file from others, soon found however large they are."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import torch

from fm9g.tensors.readers import map_tensors

LOOKED_AT = 64  # values of a tensor at either end


def fingerprint(path: Path) -> str:
    """sha256, hex, of names, shapes and dtypes of the tensors of a .pt, and the first and last values of each."""
    digest = sha256()
    weights = map_tensors(path)
    for name in sorted(weights):
        tensor = weights[name]
        flat = tensor.flatten()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        for part in (flat[:LOOKED_AT], flat[-LOOKED_AT:]):
            digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
