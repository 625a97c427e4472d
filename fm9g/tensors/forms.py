"""The forms of weights in our names, known by what a file is called: a .pt, a .safetensors, or the index of several.

NAME.pt
NAME.safetensors
NAME-00001-of-00002.safetensors, NAME-00002-of-00002.safetensors and NAME.safetensors.index.json, which is named
"""

from __future__ import annotations

import re
from pathlib import Path

FORMS = PT, SAFETENSORS = "pt", "safetensors"
INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors", re.DOTALL)


def shard_name(name: str, number: int, count: int) -> str:
    """The name of the shard `number`, from 1, of `count`."""
    return f"{name}-{number:05d}-of-{count:05d}.safetensors"


def is_index(path: Path) -> bool:
    """Whether a file is called as the index of shards is."""
    return path.name.endswith(INDEX)


def is_safetensors(path: Path) -> bool:
    """Whether a file is called as one of safetensors is, or as the index of shards."""
    return path.suffix == ".safetensors" or is_index(path)


def index_beside(path: Path) -> Path | None:
    """The index of the weights of which the file `path` is, by its name, one shard of several; None for other files."""
    shard = _SHARD.fullmatch(path.name)
    return path.with_name(shard[1] + INDEX) if shard and int(shard[2]) > 1 else None


def beside(weights: Path, suffix: str) -> Path:
    """The file beside weights that is called as they are, but for its suffix: NAME.json, say."""
    shard = _SHARD.fullmatch(weights.name)
    name = shard[1] if shard else weights.name.removesuffix(INDEX) if is_index(weights) else weights.stem
    return weights.with_name(name + suffix)
