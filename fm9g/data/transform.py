"""A user's transform of records: a Python file with `transform(data, num_sample, r)`."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fm9g.errors import UserError

Transform = Callable[[dict[str, Any], int, random.Random], dict[str, str]]


def identity(data: dict[str, Any], num_sample: int, r: random.Random) -> dict[str, Any]:
    """Records that hold input and output already."""
    return {"input": data.get("input", ""), "output": data.get("output", "")}


def load_transform(path: Path | None) -> Transform:
    """The function `transform` of a Python file, or the identity for None."""
    if path is None:
        return identity
    if not path.is_file():
        raise UserError(f"{path}: no such transform file")
    spec = importlib.util.spec_from_file_location(f"fm9g_transform_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises, it must be named
        raise UserError(f"{path}: the transform file cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, "transform", None)
    if not callable(function):
        raise UserError(f"{path}: has no function transform(data, num_sample, r)")
    return function


def apply_transform(function: Transform, data: dict[str, Any], generator: random.Random, where: str) -> tuple[str, str]:
    """(input, output) of a record; anything else that a transform does is a UserError naming the record."""
    try:
        result = function(data, 1, generator)
    except Exception as error:  # whatever the user's transform raises, the record must be named
        raise UserError(f"{where}: the transform raised {type(error).__name__}: {error}") from error
    if not isinstance(result, dict) or not {"input", "output"} <= result.keys():
        raise UserError(f'{where}: the transform must return {{"input": ..., "output": ...}}, not {_shown(result)}')
    for key in ("input", "output"):
        if not isinstance(result[key], str):
            raise UserError(f"{where}: {key} must be a string, not {_shown(result[key])}")
    if function is identity and not {"input", "output"} & data.keys():
        found = ", ".join(map(repr, data)) or "no fields"
        raise UserError(f"{where}: a record without text (it has {found}): give the dataset a transform")
    return result["input"], result["output"]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
