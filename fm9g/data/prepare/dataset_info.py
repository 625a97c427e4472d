"""A dataset_info.json of LLaMA-Factory: what it says of a dataset, and that dataset's records in our forms.

    {"NAME": {"file_name": …, "formatting": alpaca | sharegpt | openai, "columns": {…}, "tags": {…}}}

Where `columns` are given, those that are not among them are not there; the same of `tags`. A dataset with nothing but a
prompt is plain text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.data.prepare.writer import Report, rewrite
from fm9g.errors import UserError, closest, shown
from fm9g.files import read_json

FORMATTINGS = ("alpaca", "sharegpt", "openai")
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_COLUMNS = (*_ALPACA, "history", "messages", "system", "tools")
_NOT_READ = ("images", "videos", "audios", "chosen", "rejected", "kto_tag")
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_OPENAI_TAGS = {**_TAGS, "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
_SPEAKERS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_IGNORED = ("subset", "folder", "num_samples", "split")
_KNOWN = ("file_name", "formatting", "ranking", "columns", "tags", *_ELSEWHERE, *_IGNORED)


@dataclass(frozen=True)
class Described:
    """A dataset: its files, and where in a record of theirs a text is (`columns`: ours -> theirs)."""

    name: str
    files: tuple[Path, ...]
    formatting: str
    columns: Mapping[str, str]
    tags: Mapping[str, str]
    ignored: tuple[str, ...]  # keys that say what is not done here

    @property
    def format(self) -> str:
        """The format of its records once they are ours."""
        return "text" if set(self.columns) == {"prompt"} and self.formatting == "alpaca" else "chat"


def describe(path: str | os.PathLike[str], names: Iterable[str]) -> list[Described]:
    """What a dataset_info.json says of datasets; a UserError names the dataset and the key."""
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object of datasets by name")
    found = []
    for name in names:
        if name not in content:
            raise UserError(f"{path}: no dataset {name!r}{closest(name, content)}; there are {', '.join(content)}")
        found.append(_described(name, content[name], path.parent, f"{path}, {name}"))
    return found


def _described(name: str, entry: Any, folder: Path, where: str) -> Described:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, found {shown(entry)}")
    for key in entry:
        if key not in _KNOWN:
            raise UserError(f"{where}: unknown key {key!r}{closest(key, _KNOWN)}")
    elsewhere = [key for key in _ELSEWHERE if key in entry]
    if "file_name" not in entry or elsewhere:
        told = f"{elsewhere[0]} names a place on the net" if elsewhere else "file_name is missing"
        raise UserError(f"{where}: {told}: download its file, and give that alone as file_name")
    if not isinstance(entry["file_name"], str) or not entry["file_name"].strip():
        raise UserError(f"{where}: file_name must be the name of a file or a folder, not {shown(entry['file_name'])}")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in FORMATTINGS:
        raise UserError(f"{where}: formatting {shown(formatting)} is not one of {', '.join(FORMATTINGS)}")
    columns = _columns(entry, formatting, where)
    if entry.get("ranking"):
        raise UserError(f"{where}: ranking: it holds preferences, which no objective of this version learns from")
    tags = _texts(entry["tags"], _TAGS, f"{where}: tags") if "tags" in entry else {}
    if not tags:
        tags = _OPENAI_TAGS if formatting == "openai" else _TAGS
    for needed in ("role_tag", "content_tag", "user_tag", "assistant_tag"):
        if needed not in tags:
            raise UserError(f"{where}: tags: {needed} is missing")
    ignored = tuple(key for key in _IGNORED if entry.get(key) is not None)
    return Described(name, _files(folder / str(entry["file_name"]), where), formatting, columns, tags, ignored)


def _columns(entry: dict[str, Any], formatting: str, where: str) -> dict[str, str]:
    default = _ALPACA if formatting == "alpaca" else {"messages": "conversations"}
    if "columns" not in entry:
        return default
    columns = _texts(entry["columns"], (*_COLUMNS, *_NOT_READ), f"{where}: columns")
    for key in _NOT_READ:
        if key in columns:
            raise UserError(f"{where}: columns: {key} is nothing that this version learns from")
    needed = "prompt" if formatting == "alpaca" else "messages"
    if needed not in columns:
        raise UserError(f"{where}: columns: {needed} is missing")
    return columns


def _texts(found: Any, known: Iterable[str], where: str) -> dict[str, str]:
    known = list(known)
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected an object, found {shown(found)}")
    for key, value in found.items():
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{closest(key, known)}")
        if not isinstance(value, str):
            raise UserError(f"{where}: {key} must be a text, not {shown(value)}")
    return dict(found)


def _files(path: Path, where: str) -> tuple[Path, ...]:
    if path.is_dir():
        files = tuple(sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")))
        if files:
            return files
    elif path.exists():
        return (path,)
    raise UserError(f"{where}: file_name: {path}: {'holds no files' if path.is_dir() else 'no such file or folder'}")


def write_records(dataset: Described, source: Path, output: Path) -> Report:
    """Write the records of one of a dataset's files in our form: {"input", "output"} of plain text, else conversations
    as format chat reads them."""
    columns = dataset.columns

    def make(record: dict[str, Any], report: Report) -> list[dict[str, Any]]:
        if dataset.format == "text":
            return [{"input": "", "output": record[columns["prompt"]]}]
        read = {ours: record[theirs] for ours, theirs in columns.items() if record.get(theirs) is not None}
        if dataset.formatting != "alpaca":
            turns = [_turn(turn, dataset.tags) for turn in _listed(read.pop("messages", []))]
            return [{"conversations": turns, **read}]
        made = {name: read.pop(column, "") for column, name in _ALPACA.items()}
        return [made | read]

    required = columns["prompt"] if dataset.formatting == "alpaca" else columns["messages"]
    return rewrite(source, output, (required,), tuple(set(columns.values()) - {required}), make)


def _listed(turns: Any) -> list[Any]:
    if not isinstance(turns, list):
        raise UserError(f"its messages are not a list but {shown(turns)}")
    return turns


def _turn(turn: Any, tags: Mapping[str, str]) -> Any:
    """A turn in the words of ShareGPT; what is none is left to whoever reads it, which skips and names it."""
    if not isinstance(turn, dict):
        return turn
    speakers = {theirs: _SPEAKERS[tag] for tag, theirs in tags.items() if tag in _SPEAKERS}
    role, content = turn.get(tags["role_tag"]), turn.get(tags["content_tag"])
    rest = {key: value for key, value in turn.items() if key in ("loss", "weight", "tool_calls")}
    return {"from": speakers.get(role, role) if isinstance(role, str) else role, "value": content, **rest}
