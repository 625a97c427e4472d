"""Whether checkpoints are what was written: every byte that a run will read is compared, a share by each rank."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

from fm9g import runtime
from fm9g.checkpoint.manifest import Needed, damaged, everything, misfit, parts_of, read_manifest, wrong_size
from fm9g.environment import whole_number
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressBar
from fm9g.runtime.log import log
from fm9g.tensors import checksum
from fm9g.tensors.checksum import Part

_STRETCH = 64 << 20  # read by one rank


def damage(folder: Path, needed: Needed = everything) -> str:
    """What is wrong with a checkpoint, or "".

    Collective: all ranks are told the same.
    """
    if wrong := runtime.first_said(misfit(folder, needed) if runtime.rank() == 0 else ""):
        return wrong
    wrong, manifest = "", None
    try:
        manifest = read_manifest(folder)
    except UserError as error:  # of this rank alone
        wrong = f"rank {runtime.rank()}: {error}"
    if wrong := runtime.first_said(wrong):
        return wrong
    if manifest is None:
        log(f"note: {folder} has no manifest, being of an older version: its files are taken as they are")
        return ""
    manifest = {name: part for name, part in manifest.items() if needed(name)}
    return _differing(folder, manifest, range(runtime.world_size()))


def damage_beside(weights: Path, also: Needed) -> str:
    """What is wrong with weights that a run begins with, with what lies beside them to say what they are, and with what
    else of that checkpoint is needed `also`, or "".

    A node may have a copy at a place of its own: each compares what it has. Collective: all ranks are told the same.
    """
    wrong, parts = "", dict[str, Part]()
    try:
        parts = parts_of(weights, also)
        wrong = wrong_size(weights.parent, parts)
    except UserError as error:
        wrong = str(error)
    if wrong := runtime.first_said(wrong):
        return wrong
    ranks, rank = whole_number("LOCAL_WORLD_SIZE", 1, least=1), runtime.rank()
    first = rank - runtime.local_rank() if ranks > 1 else rank
    return runtime.first_said(_differing(weights.parent, parts, range(first, first + ranks)))


def _differing(folder: Path, manifest: Mapping[str, Part], ranks: range) -> str:
    """Which file is not as its manifest says, or ""; `ranks`, this one among them, see the same folder."""
    found = _sums(folder, manifest, ranks)
    return next((damaged(folder / name) for name, part in manifest.items() if found[name] != part), "")


def _sums(folder: Path, manifest: Mapping[str, Part], ranks: range) -> dict[str, Part]:
    """{file name: its checksum}, of files that are as long as they should be, a share read by each of `ranks`."""
    stretches = [
        (name, start, min(_STRETCH, part.nbytes - start))
        for name, part in manifest.items()
        for start in range(0, part.nbytes, _STRETCH)
    ]
    mine, crcs, wrong = list(itertools.islice(stretches, ranks.index(runtime.rank()), None, len(ranks))), [], ""
    with ProgressBar(f"checking {folder}", sum(nbytes for *_, nbytes in mine)) as progress:
        try:
            crcs = [checksum.of_file(folder / name, start, nbytes, progress.add).crc for name, start, nbytes in mine]
        except OSError as error:
            wrong = f"rank {runtime.rank()}: {error}"
    told = [json.loads(said) for said in runtime.gather_bytes(json.dumps([wrong, crcs]).encode())]
    if wrong := next((said for said, _ in told if said), ""):
        raise UserError(wrong)
    parts: dict[str, list[Part]] = {name: [] for name in manifest}
    for number, (name, _, nbytes) in enumerate(stretches):
        turn, rank = divmod(number, len(ranks))
        parts[name].append(Part(told[ranks[rank]][1][turn], nbytes))
    return {name: checksum.joined(of_file) for name, of_file in parts.items()}
