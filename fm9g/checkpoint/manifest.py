"""The manifest of a checkpoint: which files it has, how long they are and their checksums. Written last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fm9g.checkpoint.folder import is_step, weights_name
from fm9g.errors import UserError
from fm9g.files import read_json, write_json
from fm9g.tensors.checksum import Part
from fm9g.tensors.forms import FORMS, INDEX, beside, index_beside, is_safetensors

MANIFEST = "manifest.json"
VERSION = 1
TRAINING = "training"  # the kind of a run that has weights, in state.json
RANKS_FILES = ("optimizer-*.pt", "data-*.pt", "random-*.pt")  # one of each rank

Needed = Callable[[str], bool]
"""Whether the file of that name is going to be read."""


def everything(name: str) -> bool:
    """Of a checkpoint whose files are all needed."""
    return True


def of_no_rank(name: str) -> bool:
    """Of a checkpoint of which the weights are wanted, and what says what they are."""
    return not any(fnmatchcase(name, pattern) for pattern in RANKS_FILES)


def of_optimizer(name: str) -> bool:
    """Of a checkpoint of which the optimizer's state is needed."""
    return fnmatchcase(name, RANKS_FILES[0])


def nothing(name: str) -> bool:
    """Of a checkpoint of which no more files are needed than are named."""
    return False


def write_manifest(folder: Path, files: Mapping[str, Part]) -> None:
    """Write it, whole or not at all."""
    listed = {name: {"size": part.nbytes, "crc32": f"{part.crc:08x}"} for name, part in sorted(files.items())}
    write_json(folder / MANIFEST, {"version": VERSION, "files": listed})


def read_manifest(folder: Path) -> dict[str, Part] | None:
    """{file name: what it should be}; None where there is none. A UserError for one that is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    contents = read_json(path)
    version = contents.get("version") if isinstance(contents, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UserError(f"{path}: of version {version}, this is FM9G that knows version {VERSION}: use a newer one")
    try:
        return {name: _part(entry) for name, entry in contents["files"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"{path}: not a manifest as it was written") from None


def _part(entry: Mapping[str, Any]) -> Part:
    return Part(int(entry["crc32"], 16), int(entry["size"]))


def misfit(folder: Path, needed: Needed = everything) -> str:
    """What is wrong with a checkpoint by the names and sizes of its files, or "".

    One without a manifest is of an older version, or lacks it: then that is said.
    """
    try:
        manifest = read_manifest(folder)
        state = read_json(folder / "state.json")
    except UserError as error:
        return str(error)
    state = state if isinstance(state, dict) else {}
    if manifest is None:
        return f"{folder / MANIFEST} is missing" if "version" in state else ""
    if wrong := _foreign(folder, state, manifest):
        return wrong
    if wrong := wrong_size(folder, {name: part for name, part in manifest.items() if needed(name)}):
        return wrong
    for pattern in RANKS_FILES:
        for path in sorted(folder.glob(pattern)):
            if needed(path.name) and path.name not in manifest:
                return f"{path} is not of this checkpoint: remove it"
    return ""


def wrong_size(folder: Path, parts: Mapping[str, Part]) -> str:
    """Which of these files in a folder is missing, or has another size, or ""."""
    for name, part in parts.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if (size := path.stat().st_size) != part.nbytes:
            return f"{path}: has {size:,} bytes, {part.nbytes:,} were written"
    return ""


def damaged(path: Path) -> str:
    """What is said of a file whose bytes are not those of its manifest."""
    return f"{path} is damaged: its checksum is not that of what was written"


def parts_of(weights: Path, also: Needed = nothing) -> dict[str, Part]:
    """What the manifest beside a file of weights says of it, of its shards, and of what tells what they are; and of
    what is needed `also`. {} without a manifest, and of weights that it does not list: these are somebody's own.

    One shard of several has none: it is refused where it is read.
    """
    manifest = read_manifest(weights.parent)
    if manifest is None or weights.name not in manifest or index_beside(weights) is not None:
        return {}
    told = (weights.name, beside(weights, ".json").name, "state.json")

    def is_shard(name: str) -> bool:
        path = weights.with_name(name)
        return is_safetensors(path) and beside(path, INDEX) == weights

    return {name: part for name, part in manifest.items() if name in told or is_shard(name) or also(name)}


def _foreign(folder: Path, state: Mapping[str, Any], manifest: Mapping[str, Part]) -> str:
    """Whether a folder holds another step than it is called, or no weights where it must."""
    name = folder.name.removeprefix(".").removesuffix(".partial")
    progress = state.get("progress")
    step = progress.get("step") if isinstance(progress, dict) else None
    if is_step(name) and isinstance(step, int) and step != int(name):
        return f"{folder / 'state.json'} is of step {step}"
    if is_step(name) and state.get("kind") == TRAINING and not _listed(manifest, int(name)):
        return f"{folder / MANIFEST} lists no weights"
    return ""


def _listed(manifest: Mapping[str, Part], step: int) -> list[str]:
    """The weights that a manifest lists, by the name that they are read by."""
    return [name for name in (weights_name(step, form) for form in FORMS) if name in manifest]


def weights_in(folder: Path, step: int) -> Path:
    """The weights in a checkpoint's folder, in whichever form: the .pt, or the index of shards.

    Those that its manifest lists, whatever somebody has put beside them. Without a manifest those that are there; a
    UserError where these are of both forms. Where there are none, as in a checkpoint of data alone, the name of a .pt.
    """
    manifest = read_manifest(folder)
    names = [weights_name(step, form) for form in FORMS]
    found = [name for name in names if (folder / name).is_file()] if manifest is None else _listed(manifest, step)
    if len(found) > 1:
        raise UserError(f"{folder}: holds both {' and '.join(found)}, and nothing says which to take: remove one")
    return folder / (found or names)[0]
