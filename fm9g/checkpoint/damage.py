"""Whether a checkpoint is what was written: every byte of it is read, a share by each rank."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from fm9g import runtime
from fm9g.checkpoint.manifest import Needed, everything, misfit, read_manifest
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressBar
from fm9g.runtime.log import log
from fm9g.tensors import checksum
from fm9g.tensors.checksum import Part

_STRETCH = 64 << 20  # read by one rank
_READ = 4 << 20  # in memory at a time


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
    found = _sums(folder, manifest)
    for name, part in manifest.items():
        if found[name] != part:
            return f"{folder / name} is damaged: its checksum is not that of what was written"
    return ""


def _sums(folder: Path, manifest: Mapping[str, Part]) -> dict[str, Part]:
    """{file name: its checksum}, of files that are as long as they should be."""
    stretches = [
        (name, start, min(_STRETCH, part.nbytes - start))
        for name, part in manifest.items()
        for start in range(0, part.nbytes, _STRETCH)
    ]
    mine, crcs, wrong = list(itertools.islice(stretches, runtime.rank(), None, runtime.world_size())), [], ""
    with ProgressBar(f"checking {folder}", sum(nbytes for *_, nbytes in mine)) as progress:
        try:
            crcs = [_crc(folder / name, start, nbytes, progress) for name, start, nbytes in mine]
        except OSError as error:
            wrong = f"rank {runtime.rank()}: {error}"
    told = [json.loads(said) for said in runtime.gather_bytes(json.dumps([wrong, crcs]).encode())]
    if wrong := next((said for said, _ in told if said), ""):
        raise UserError(wrong)
    parts: dict[str, list[Part]] = {name: [] for name in manifest}
    for number, (name, _, nbytes) in enumerate(stretches):
        turn, rank = divmod(number, runtime.world_size())
        parts[name].append(Part(told[rank][1][turn], nbytes))
    return {name: checksum.joined(of_file) for name, of_file in parts.items()}


def _crc(path: Path, start: int, nbytes: int, progress: ProgressBar) -> int:
    crc, left = 0, nbytes
    with open(path, "rb") as file:
        file.seek(start)
        while left and (data := file.read(min(_READ, left))):
            crc = zlib.crc32(data, crc)
            left -= len(data)
            progress.add(len(data))
    return crc
