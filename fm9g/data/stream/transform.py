"""A user's transform of records: a Python file with `transform(data, num_sample, r)`."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fm9g.data.record import NoText, checked_texts
from fm9g.errors import UserError, shown

Transform = Callable[[dict[str, Any], int, random.Random], dict[str, str]]


def load_transform(path: Path) -> Transform:
    """The function `transform` of a Python file."""
    if not path.is_file():
        raise UserError(f"{path}: no such transform file")
    spec = importlib.util.spec_from_file_location(f"fm9g_transform_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises, it must be named
        raise UserError(f"{path}: the transform file cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, "transform", None)
    if not callable(function):
        raise UserError(f"{path}: has no function transform(data, num_sample, r)")
    return function


def apply_transform(function: Transform, data: dict[str, Any], generator: random.Random) -> tuple[str, str]:
    """(input, output) of a record; NoText for anything else that a transform does."""
    try:
        result = function(data, 1, generator)
    except (Exception, SystemExit) as error:  # whatever the user's transform raises, the record must be named
        raise NoText(f"the transform raised {type(error).__name__}: {error}") from error
    if not isinstance(result, dict) or not {"input", "output"} <= result.keys():
        raise NoText(f'the transform must return {{"input": ..., "output": ...}}, not {shown(result)}')
    return checked_texts(result["input"], result["output"])


def all_strings(data: dict[str, Any]) -> tuple[str, ...]:
    """Every string anywhere in a record, names of fields included."""
    found: list[str] = []
    left: list[Any] = [data]
    while left:  # not by recursion: a record may be nested deeper than Python's stack
        value = left.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
    return tuple(found)
