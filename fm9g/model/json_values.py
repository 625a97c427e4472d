"""JSON's values and the types of a dataclass's fields."""

from __future__ import annotations

from typing import Any

from fm9g.errors import UserError, shown


def in_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def typed(where: str, key: str, value: Any, kind: str) -> Any:
    """`value` as the type that a dataclass names `kind`; a UserError that names `key` where it is of another."""
    if kind == "tuple[int, ...]":
        if not isinstance(value, list | tuple) or not all(type(number) is int for number in value):
            raise UserError(f"{where}: {key} must be a list of whole numbers, not {shown(value)}")
        return tuple(sorted(set(value)))
    if kind == "tuple[float, ...]":
        if not isinstance(value, list | tuple) or not all(type(number) in (int, float) for number in value):
            raise UserError(f"{where}: {key} must be a list of numbers, not {shown(value)}")
        return tuple(typed(where, key, number, "float") for number in value)
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: {key} must be a number that a float can hold, not {shown(value)}") from None
    if type(value).__name__ != kind:
        raise UserError(f"{where}: {key} must be {kind}, not {shown(value)}")
    return value
