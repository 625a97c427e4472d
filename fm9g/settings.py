"""Settings: declared in groups, read from what users write, merged, checked and explained.

A group is a frozen dataclass of settings that drive one part, beside the code of that part. What a program takes is a
composition: a class whose bases are its groups and Merged, so that all settings are one flat namespace and a function
asks for the group that it needs. Nothing here, and no file with a group, imports torch.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from fm9g.display import LINE_WIDTH, list_lines
from fm9g.errors import UserError, about, closest, shown

DEFAULT = "default"
_LARGEST_INT = 2**32 - 1  # the largest seed
_LARGEST_FLOAT = 3.4e38  # of float32, in which they are used; infinity is refused where it has no meaning
_INDENT = 2  # columns before each line about settings, where it is printed


def setting(default: Any, meaning: str, chinese: str, **metadata: Any) -> Any:
    """A field of a group: its default and what it means, in English and in Chinese. `metadata` may say

    least, most, above: bounds of a number, which must then be finite;
    choices: the texts that it may be, lower: whether they are read in any case;
    told: whether a run says its value even where that is the default, since it decides what is learned and how fast;
    fixed: whether a resumed run is refused where it has another value than before;
    needs: settings without any of which it means nothing, which a run says where its value is not the default;
    replaces: settings that say the same in another way: a source that names this one takes them back from earlier ones;
    later: what it belongs to that this version does not have.
    """
    return field(default=default, metadata={"meaning": meaning, "chinese": chinese, **metadata})


@dataclass(frozen=True)
class Group:
    """Settings that drive one part."""

    title: ClassVar[str] = ""
    chinese_title: ClassVar[str] = ""

    def check(self) -> None:
        """Refuse with a UserError what the bounds of single settings do not tell."""


@dataclass(frozen=True)
class Merged(Group):
    """The last base of a composition: where its values come from."""

    sources: Mapping[str, str] = field(default_factory=dict)  # {setting: source} of those that are not defaults

    def source(self, name: str) -> str:
        """Where a setting's value comes from, in words."""
        return self.sources.get(name, DEFAULT)

    @staticmethod
    def advice(name: str) -> str:
        """What to write instead of a setting that there is none of, where people are known to look for it."""
        return ""


Composition = type[Merged]
Composed = TypeVar("Composed", bound=Merged)


def groups(composition: Composition) -> list[type[Group]]:
    """The groups that a composition names as its bases, in that order."""
    return [base for base in composition.__bases__ if issubclass(base, Group) and base is not Merged]


def fields(of: type[Group]) -> dict[str, dataclasses.Field[Any]]:
    """{name: field} of the settings of a group or a composition, group by group."""
    if issubclass(of, Merged):
        named = [(name, item) for group in groups(of) for name, item in fields(group).items()]
        found = dict(named)
        assert len(found) == len(named), "two groups declare one setting"
        return found
    return {item.name: item for item in dataclasses.fields(of)}


def kind_of(item: dataclasses.Field[Any]) -> str:
    """The type of a setting in the spelling of the code: bool, int, float, str, list[str], tuple[float, float]."""
    return str(item.type).split(" | ")[0]


# What users write


def parse_value(item: dataclasses.Field[Any], value: Any, where: str) -> Any:
    """Turn what a user wrote ("1e-2", "True", "0", 5) into the setting's type; a UserError says why not."""
    kind = _KINDS[kind_of(item)]
    try:
        parsed = kind.parse(value)
    except _OutOfRange as error:
        raise UserError(f"{where}: {item.name} must be {error}, not {shown(value)}") from None
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError):  # of float, literal_eval
        raise UserError(f"{where}: {item.name} must be {kind.words}, not {shown(value)}") from None
    return parsed.lower() if item.metadata.get("lower") else parsed


class _OutOfRange(ValueError):
    """A number no setting can have; the message says what it must be."""


def _within(number: float, limit: float) -> bool:
    """False for NaN."""
    if abs(number) > limit:
        words = f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
        raise _OutOfRange(f"from -{words} to {words}")
    return not math.isnan(number)


def _bool(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    return words[str(value).strip().lower()] if str(value).strip().lower() in words else _fail()


def _int(value: Any) -> int:
    if isinstance(value, bool):
        _fail()
    number = float(value)
    return int(number) if number.is_integer() and _within(number, _LARGEST_INT) else _fail()


def _float(value: Any) -> float:
    number = _fail() if isinstance(value, bool) else float(value)
    return number if math.isinf(number) or _within(number, _LARGEST_FLOAT) else _fail()


def _str(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else _fail()


def _sequence(value: Any) -> list[Any]:
    if isinstance(value, str) and value.strip()[:1] in "[(":
        value = ast.literal_eval(value)
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return list(value) if isinstance(value, list | tuple) else _fail()


def _texts(value: Any) -> list[str]:
    return [str(item) for item in _sequence(value)]


def _two_numbers(value: Any) -> tuple[float, float]:
    first, second = map(_float, _sequence(value))
    return first, second


def _fail() -> Any:
    raise ValueError


class _Parse(Protocol):
    def __call__(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class _Kind:
    parse: _Parse
    words: str


_KINDS = {
    "bool": _Kind(_bool, "true or false"),
    "int": _Kind(_int, "a whole number"),
    "float": _Kind(_float, "a number"),
    "str": _Kind(_str, "text"),
    "list[str]": _Kind(_texts, "a list"),
    "tuple[float, float]": _Kind(_two_numbers, "two numbers, as 0.9,0.95"),
}


def _known(composition: Composition, name: str, where: str) -> dataclasses.Field[Any]:
    known, normal = fields(composition), name.replace("-", "_")
    if normal not in known:
        if here := composition.advice(normal):
            raise UserError(f"{where}: {name!r} is another trainer's; here: {here}")
        raise UserError(f"{where}: unknown setting {name!r}{closest(normal, known)}")
    if later := known[normal].metadata.get("later"):
        raise UserError(f"{where}: {normal} belongs to {later}, which this version does not have yet")
    return known[normal]


def parse_words(composition: Composition, words: list[str], where: str) -> dict[str, Any]:
    """`--key value`, `--key=value`, or a bare `--key` for a boolean; of a repeated flag the last counts."""
    values: dict[str, Any] = {}
    index = 0
    while index < len(words):
        word = words[index]
        if not word.startswith("--"):
            raise UserError(f"{where}: expected a --setting, found {word!r}")
        name, equals, value = word[2:].partition("=")
        item = _known(composition, name, where)
        index += 1
        if not equals:
            bare = index == len(words) or words[index].startswith("--")
            if bare and kind_of(item) != "bool":
                raise UserError(f"{where}: --{item.name} needs a value")
            value = "True" if bare else words[index]
            index += not bare
        values[item.name] = parse_value(item, value, where)
    return values


def parse_lines(composition: Composition, text: str, where: str) -> dict[str, Any]:
    """Lines of `key=value`; one with an empty value is as if it were not there, whatever its key."""
    written = [line.partition("=") for line in filter(None, text.splitlines())]
    given = {name.strip(): value.strip() for name, _, value in written if value.strip()}
    return parse_mapping(composition, given, where)


def parse_mapping(composition: Composition, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """{setting: what a user wrote}; None and an empty text mean unset."""
    values = {}
    for name, value in content.items():
        item = _known(composition, name, where)
        if value is not None and value != "":
            values[item.name] = parse_value(item, value, where)
    return values


# Merging and checking


def merge(composition: type[Composed], given: Iterable[tuple[str, Mapping[str, Any]]]) -> Composed:
    """The settings of (source, parsed values), later over earlier, checked; a UserError names the setting."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    items = fields(composition)
    for source, found in given:
        for other in {other for name in found for other in items[name].metadata.get("replaces", ())} - set(found):
            values.pop(other, None)
            sources.pop(other, None)
        values.update(found)
        sources.update(dict.fromkeys(found, source))
    settings = composition(**values, sources=sources)
    check(settings)
    return settings


def check(settings: Merged) -> None:
    """Refuse values that no run can have: by each setting's own bounds, then as each group asks."""
    composition = type(settings)
    for name, item in fields(composition).items():
        value = getattr(settings, name)
        if value is not None:
            with about(settings.source(name)):
                _check_bounds(item, value)
                _check_choice(item, value)
    for group in [*groups(composition), composition]:
        group.check(settings)


def _check_bounds(item: dataclasses.Field[Any], value: Any) -> None:
    bounds = {
        "least": ("at least", lambda limit: value >= limit),
        "above": ("above", lambda limit: value > limit),
        "most": ("at most", lambda limit: value <= limit),
    }
    asked = {key: item.metadata[key] for key in bounds if key in item.metadata}
    if asked and not (all(bounds[key][1](limit) for key, limit in asked.items()) and math.isfinite(value)):
        words = " and ".join(f"{bounds[key][0]} {limit:g}" for key, limit in asked.items())
        finite = "finite and " if kind_of(item) == "float" and "most" not in asked else ""
        raise UserError(f"{item.name} must be {finite}{words}, not {value}")


def _check_choice(item: dataclasses.Field[Any], value: Any) -> None:
    choices = item.metadata.get("choices", (value,))
    if value not in choices:
        hint = closest(value, choices)
        raise UserError(f"{item.name} must be one of {', '.join(choices)}, not {shown(value)}{hint}")


# Telling


def default_text(item: dataclasses.Field[Any]) -> str:
    """A setting's default as documentation writes it."""
    return "unset" if item.default is None or item.default == "" else str(item.default)


def meaning(item: dataclasses.Field[Any]) -> str:
    """A setting's line of documentation, in English."""
    later = item.metadata.get("later")
    return item.metadata["meaning"] + (f" (a later version: {later})" if later else "")


def help_text(composition: Composition) -> str:
    """What --help prints."""
    lines = ["Settings, as --name value (a boolean works bare):"]
    for group in groups(composition):
        lines += ["", f"{group.title}:"]
        for name, item in fields(group).items():
            lines += [f"  --{name}  [{default_text(item)}]", f"      {meaning(item)}"]
    return "\n".join(lines)


def value_text(value: Any) -> str:
    """A setting's value as a log shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def told_lines(settings: Merged) -> list[str]:
    """The settings that were given and those that matter, by where they come from, in lines of LINE_WIDTH columns."""
    told: dict[str, list[str]] = {}
    for name, item in fields(type(settings)).items():
        source = settings.source(name)
        if source != DEFAULT or item.metadata.get("told"):
            told.setdefault(source, []).append(f"{name} {value_text(getattr(settings, name))}")
    sources = sorted(told, key=lambda source: source == DEFAULT)
    return [line for source in sources for line in list_lines(source, told[source], LINE_WIDTH - _INDENT)]


def changed(saved: Mapping[str, Any], settings: Merged, but: Iterable[str] = ()) -> list[str]:
    """What a resumed run has otherwise than its checkpoint's run, given that run's settings; `but` these."""
    return [
        f"{name} is {value_text(getattr(settings, name))} ({settings.source(name)}), it was {value_text(saved[name])}"
        for name in fields(type(settings))
        if name not in but and name in saved and _plain(saved[name]) != _plain(getattr(settings, name))
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # JSON knows no tuples
