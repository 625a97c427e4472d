"""The mixture file, dataset_config/*.json: which datasets to read, and how much of each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.data.chat.render import TOKENIZER
from fm9g.data.stream.record_formats import RECORD_FORMATS, TEXT
from fm9g.errors import UserError, closest, shown
from fm9g.files import read_json, user_path

OVERSIZE_RULES = ("segment", "head", "drop")
_KINDS: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "abs_weight": (int, float),
    "task_name": (str,),
    "dataset_name": (str,),
    "format": (str,),
    "template": (str,),
    "transforms": (str, type(None)),
    "special_tokens": (bool,),
    "allow_repeat": (bool,),
    "skip_unlearned": (bool,),
    "oversize_rule": (str,),
    "max_epochs": (int, float, type(None)),
    "nlines": (int, float, type(None)),
    "ave_tokens_per_line": (int, float, type(None)),
    "total_tokens": (int, float, type(None)),
}
LARGEST = 1e15  # of all numbers: sums and products of some stay exact
INFORMATIVE = ("nlines", "ave_tokens_per_line", "total_tokens")


@dataclass(frozen=True)
class MixtureEntry:
    """One entry of a mixture. `share` is its part of all tokens: abs_weight over the sum of weights."""

    task_name: str
    path: Path
    share: float
    transforms: Path | None
    allow_repeat: bool
    oversize_rule: str
    max_epochs: float | None
    declared: dict[str, float]
    skip_unlearned: bool = False  # whether records with nothing to learn are skipped instead of refused
    special_tokens: bool = False  # whether spellings of special tokens in its text are those tokens
    format: str = TEXT  # a key of RECORD_FORMATS
    template: str = ""  # of its conversations: a name, a path, or TOKENIZER; "" where the format has none

    @property
    def epochs(self) -> float | None:
        """After how many epochs this dataset ends, or None if it never does."""
        return self.max_epochs if self.allow_repeat else min(1.0, self.max_epochs or 1.0)


def read_mixture(path: str | os.PathLike[str]) -> list[MixtureEntry]:
    """Read and check a mixture file; a UserError names the file, the entry and the key."""
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a list of datasets with at least one entry")
    checked = [_checked(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, 1)]
    names = [str(entry.get("task_name") or entry.get("dataset_name")) for entry in checked]
    for name in names:
        if names.count(name) > 1:
            numbers = " and ".join(str(number) for number, other in enumerate(names, 1) if other == name)
            raise UserError(f"{path}: entries {numbers} are all named {name!r}: task_name must be unique")
    total = sum(entry["abs_weight"] for entry in checked)
    if total <= 0:
        raise UserError(f"{path}: the weights sum to zero: give at least one dataset a positive abs_weight")
    return [_entry(entry, name, total, path.parent) for entry, name in zip(checked, names, strict=True)]


def _checked(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, found {type(entry).__name__}")
    for key, value in entry.items():
        if key not in _KINDS:
            raise UserError(f"{where}: unknown key {key!r}{closest(key, _KINDS)}")
        if not isinstance(value, _KINDS[key]) or (isinstance(value, bool) and bool not in _KINDS[key]):
            wanted = " or ".join(kind.__name__ for kind in _KINDS[key])
            raise UserError(f"{where}: {key} must be {wanted}, not {shown(value)}")
        if isinstance(value, str) and not _is_text(value):
            raise UserError(f"{where}: {key} holds half a surrogate pair, which is no text: {shown(value)}")
        if isinstance(value, int | float) and not 0 <= value <= LARGEST:
            raise UserError(f"{where}: {key} must be a number from 0 to {LARGEST:g}, not {shown(value)}")
    for key in ("path", "abs_weight"):
        if key not in entry:
            raise UserError(f"{where}: {key} is missing")
    if not (entry.get("task_name") or entry.get("dataset_name")):
        raise UserError(f"{where}: task_name (or dataset_name) is missing")
    rule = entry.get("oversize_rule", "segment")
    if rule not in OVERSIZE_RULES:
        raise UserError(f"{where}: oversize_rule {rule!r} is not one of {', '.join(OVERSIZE_RULES)}")
    _check_format(entry, where)
    epochs = entry.get("max_epochs")
    if epochs == 0:
        raise UserError(f"{where}: max_epochs must be above 0, not {epochs}")
    return entry


def _check_format(entry: dict[str, Any], where: str) -> None:
    name = entry.get("format", TEXT)
    if name not in RECORD_FORMATS:
        raise UserError(
            f"{where}: format {shown(name)} is not one of {', '.join(RECORD_FORMATS)}{closest(name, RECORD_FORMATS)}"
        )
    takes = RECORD_FORMATS[name].template
    if "template" in entry and not takes:
        with_template = " or ".join(name for name, format in RECORD_FORMATS.items() if format.template)
        raise UserError(f"{where}: a template is for conversations: format must be {with_template}, not {name}")
    if takes and not entry.get("template"):
        raise UserError(
            f'{where}: format {name} needs a template: a name of chat_templates/, a path, or "{TOKENIZER}", the one in '
            "the tokenizer's folder"
        )
    if entry.get("transforms") and name != TEXT:
        raise UserError(f"{where}: transforms make text of records, so format must be {TEXT}, not {name}")


def _template(name: str, folder: Path) -> str:
    """A template's name, or its path from the mixture's folder."""
    return str(folder / user_path(name)) if name.endswith(".json") else name


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _entry(entry: dict[str, Any], name: str, total: float, folder: Path) -> MixtureEntry:
    transforms = entry.get("transforms") or None
    format = RECORD_FORMATS[entry.get("format", TEXT)]
    return MixtureEntry(
        task_name=name,
        path=folder / user_path(entry["path"]),
        share=entry["abs_weight"] / total,
        transforms=folder / user_path(transforms) if transforms else None,
        allow_repeat=entry.get("allow_repeat", True),
        oversize_rule=entry.get("oversize_rule", "segment"),
        max_epochs=entry.get("max_epochs"),
        declared={key: entry[key] for key in INFORMATIVE if entry.get(key) is not None},
        skip_unlearned=entry.get("skip_unlearned", format.template),  # conversations always have some that are none
        special_tokens=entry.get("special_tokens", bool(transforms)),
        format=entry.get("format", TEXT),
        template=_template(entry.get("template", ""), folder),
    )
