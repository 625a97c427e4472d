"""Weights that a person names: which file is meant, and whether it is what its run has written.

They are a file, the folder of a checkpoint, or that of a run, of which the newest whole checkpoint is taken, as a
resume takes it. What no manifest lists is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fm9g.checkpoint.choice import first_whole, whole_ones
from fm9g.checkpoint.folder import StepsIn, is_step
from fm9g.checkpoint.manifest import damaged, of_no_rank, parts_of, weights_in, wrong_size
from fm9g.environment import tell
from fm9g.errors import UserError
from fm9g.files import read_json, read_text
from fm9g.progress_bar import ProgressBar
from fm9g.tensors import checksum

STATE = "state.json"

Fault = Callable[[Path], str]
"""What is wrong with a file of weights, or ""."""


def size_fault(weights: Path) -> str:
    """By the manifest beside it, and the names and sizes of its files."""
    try:
        return wrong_size(weights.parent, parts_of(weights))
    except UserError as error:
        return str(error)


def byte_fault(weights: Path) -> str:
    """By every byte, too, which are read for it."""
    if wrong := size_fault(weights):
        return wrong
    parts = parts_of(weights)
    with ProgressBar(f"checking {weights}", sum(part.nbytes for part in parts.values())) as progress:
        for name, part in parts.items():
            path = weights.with_name(name)
            if checksum.of_file(path, 0, part.nbytes, progress.add) != part:
                return damaged(path)
    return ""


def find_weights(path: Path, fault: Fault = byte_fault) -> Path:
    """The file of weights that `path` is, or that is in that folder, in which `fault` finds nothing wrong.

    UserError for other files and checkpoints, with those of the run that are whole; of a run the newest of these is
    taken, and the others are named. What is not there at all is left to who reads it.
    """
    if path.name in ("best", "latest") and path.is_file() and is_step(step := read_text(path).strip()):
        path = path.parent if path.name == "latest" else path.with_name(step)
    if path.is_dir() and not (path / STATE).is_file():
        return _in_run(path, fault)
    weights, wrong = _look(path, fault) if path.is_dir() else (path, fault(path))
    if wrong:
        raise UserError(f"{wrong}; {instead_of(path if path.is_dir() else path.parent)}")
    return weights


def holds_checkpoints(folder: Path) -> bool:
    """Whether a folder is that of a checkpoint, or of a run."""
    return (folder / STATE).is_file() or (folder / "latest").is_file() or bool(StepsIn(folder).steps())


def instead_of(folder: Path) -> str:
    """What to take instead of weights in the folder of a checkpoint that is not whole."""
    folder = folder.absolute()
    whole = whole_ones(StepsIn(folder.parent), int(folder.name), of_no_rank) if is_step(folder.name) else ""
    return (
        f"take another checkpoint{whole and f' ({whole})'}, or another copy of this one; files that were changed on "
        "purpose are taken as they are from any other folder, without the manifest"
    )


def _look(folder: Path, fault: Fault) -> tuple[Path, str]:
    """The file of weights in a checkpoint's folder, and what is wrong with it, or ""."""
    try:
        weights = _weights_in(folder)
    except UserError as error:
        return folder, str(error)
    return weights, fault(weights) if weights.is_file() else f"{weights} is missing: the checkpoint is not whole"


def _weights_in(folder: Path) -> Path:
    match read_json(folder / STATE):
        case {"progress": {"step": int(step)}}:
            return weights_in(folder, step)
    raise UserError(f"{folder / STATE}: says no step: it is not that of a checkpoint")


def _in_run(folder: Path, fault: Fault) -> Path:
    if not holds_checkpoints(folder):
        hint = ": tools/hgface_2_bmtrain.py makes weights of it" if (folder / "config.json").is_file() else ""
        raise UserError(f"{folder}: neither a checkpoint ({STATE}) nor a run with checkpoints{hint}")
    run, found = StepsIn(folder), dict[int, Path]()

    def wrong(step: int) -> str:
        found[step], said = _look(folder / str(step), fault)
        return said

    steps = run.candidates("latest")
    step = first_whole(run, steps, "latest", wrong, lambda text: tell(f"warning: {text}"))
    if step is None:
        raise UserError(f"{folder}: holds no checkpoint")
    tell(f"note: {folder}: its {'latest' if step == steps[0] else 'newest whole'} checkpoint, of step {step}, is taken")
    return found[step]
