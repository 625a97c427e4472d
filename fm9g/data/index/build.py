"""Building an indexed dataset (fm9g.data.index.dataset) from jsonl files.

    files -> blocks of whole lines -> scanned by all cores -> written in order -> a folder, complete or absent

Memory does not grow with the files: the bounds and checksums wait in a temporary file of the new folder, since HDF5
must know how many there are before it can store them contiguously.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from fm9g.commandline import command
from fm9g.data.file_kinds import misfit
from fm9g.data.index.dataset import DATA, DIGEST, INDEX_H5, INDEX_TEXT, META, IndexedDataset
from fm9g.data.index.output_folder import is_occupied, output_folder
from fm9g.data.index.parallel import available_cores, ordered_map
from fm9g.data.index.scan import TOKENS_PER_UNIT, BlockScan, Rejected, ScanRules, scan_block
from fm9g.data.index.writer import REJECTED, SOURCE_DIGEST, IndexWriter, write_at
from fm9g.data.jsonl_files import Block, find_files, is_plain, read_blocks
from fm9g.errors import UserError, closest
from fm9g.progress_bar import ProgressCallback, no_progress

_DATASET_FILES = {DATA, INDEX_H5, INDEX_TEXT, META, REJECTED}
_SMALL_BYTES = 16 << 20  # below it, starting processes takes longer than it saves


@dataclass(frozen=True)
class Options:
    """How an index is built. `on_error`: fail at the first line that is no record, or skip and keep those lines."""

    overwrite: bool = False
    append: bool = False
    on_error: str = "fail"
    validate: bool = True
    checksums: bool = True
    max_line_bytes: int = 1 << 30
    workers: int = 0  # 0 for all cores


DEFAULTS = Options()


def build(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    language: str,
    options: Options = DEFAULTS,
    progress: ProgressCallback = no_progress,
) -> dict[str, Any] | None:
    """Index jsonl files (.jsonl, .jsonl.gz, .jsonl.zst, folders of them) into the folder `output`.

    `language` is zh, en or code (for token estimates). Returns what meta.json holds, or None where `output` holds
    exactly this data already. UserError names file, line and byte of a line that is no JSON object. A folder with
    anything else in it is refused unless `overwrite` (then the new dataset is built beside it and takes its place in
    one step, other files in it staying) or `append` (then the new dataset is the old one's records and the new ones).
    """
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    files, target = find_files(given), Path(os.path.realpath(output))
    _check_arguments(files, target, language)
    rules = ScanRules(language, options.validate, options.checksums, options.max_line_bytes)
    if options.append:
        return _append(files, target, rules, options, progress)
    if is_occupied(target) and not options.overwrite:
        _require_same(files, target, language, progress)
        return None
    with _explain_full_disk(target), output_folder(target, options.overwrite, _DATASET_FILES) as folder:
        _check_space(files, folder)
        with IndexWriter(folder, rules, options.checksums) as writer:
            _add_files(writer, files, rules, options, progress)
            return writer.finish()


def _append(
    files: list[Path], target: Path, rules: ScanRules, options: Options, progress: ProgressCallback
) -> dict[str, Any] | None:
    """The dataset in `target` with more records, as a new generation; its old records are verified on the way."""
    old = IndexedDataset(target)
    if old.meta.get("language", rules.language) != rules.language:
        raise UserError(f"{target}: its dataset has language {old.meta['language']!r}, not {rules.language!r}")
    generations = old.generations
    if any(_is_of(generation, files, progress) for generation in generations):
        return None
    with _explain_full_disk(target), output_folder(target, True, _DATASET_FILES) as folder:
        _check_space([target / DATA, *files], folder)
        if (target / REJECTED).exists():
            shutil.copy(target / REJECTED, folder / REJECTED)
        with IndexWriter(folder, rules, options.checksums) as writer:
            _add_files(writer, [target / DATA], rules, options, progress)
            stored = old.meta.get(DIGEST)
            if writer.records != len(old) or (stored and stored != writer.digest):
                raise UserError(
                    f"{target}: {DATA} is not what was indexed, so nothing is appended to it "
                    f"({command('check')} {target} says where it differs)"
                )
            writer.begin_generation(generations)
            _add_files(writer, files, rules, options, progress)
            return writer.finish()


def _add_files(
    writer: IndexWriter, files: list[Path], rules: ScanRules, options: Options, progress: ProgressCallback
) -> None:
    """Scan files in parallel, and write what they hold in order."""
    before = [_stamp(path) for path in files]
    total = sum(size for size, _ in before) if all(map(is_plain, files)) else 0
    workers = options.workers or available_cores()
    if total and total <= _SMALL_BYTES:
        workers = 1
    blocks = _placed((block for path in files for block in read_blocks(path, rules.max_line_bytes)), writer)
    done, line, last = 0, 0, None
    in_c = not (rules.validate or rules.checksums)  # numpy and the system do all of it, which threads can share
    scans = ordered_map(functools.partial(_scan, rules, writer.data_path), blocks, workers, threads=in_c)
    for (block, _), scan in scans:
        if block.path != last:
            line, last = 0, block.path
            writer.begin_file(block.path)
        for rejected in scan.rejected:
            _reject(writer, block, rejected, line, options.on_error)
        writer.add(block, scan)
        line += scan.lines
        done += block.size
        progress(done, total)
    for path, stamp in zip(files, before, strict=True):
        if _stamp(path) != stamp:
            raise UserError(f"{path}: was changed while it was being indexed; run this again when it is complete")


def _placed(blocks: Iterator[Block], writer: IndexWriter) -> Iterator[tuple[Block, int | None]]:
    """Blocks with where each will stand in the data if no line is left out before it; None once one was."""
    place = writer.nbytes
    for block in blocks:
        yield block, None if writer.shifted else place
        place += block.length


def _scan(rules: ScanRules, data_path: Path, placed: tuple[Block, int | None]) -> BlockScan:
    """Scan a block, and write it to its place if that is known and all of it is kept."""
    block, place = placed
    if block.too_long:
        reason = f"longer than {rules.max_line_bytes:,} bytes (--max-line-bytes)"
        return BlockScan.of_nothing(Rejected(0, 0, block.size - 1, reason))
    raw = block.read()
    scan = scan_block(raw, rules)
    if place is not None and scan.kept is None:
        with open(data_path, "r+b", buffering=0) as data:
            write_at(data.fileno(), raw, place)
        scan.place = place
    return scan


def _reject(writer: IndexWriter, block: Block, rejected: Rejected, lines_before: int, on_error: str) -> None:
    line, offset = lines_before + rejected.line + 1, block.offset + rejected.offset
    data = b"" if block.too_long else block.read()[rejected.offset : rejected.offset + rejected.size]
    if on_error == "fail":
        skip = f"--on-error skip leaves such lines out and keeps them in {REJECTED}"
        advice = misfit(block.path, data, line) or skip
        raise UserError(f"{block.path}, line {line}, byte {offset}: {rejected.reason} ({advice})")
    writer.reject(block.path, line, offset, rejected, data)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _check_arguments(files: list[Path], target: Path, language: str) -> None:
    if language not in TOKENS_PER_UNIT:
        known = ", ".join(TOKENS_PER_UNIT)
        raise UserError(f"unknown language {language!r}{closest(language, TOKENS_PER_UNIT)}; there are {known}")
    for path in files:
        if target.is_dir() and Path(os.path.realpath(path)).is_relative_to(target):
            raise UserError(f"{path}: lies inside the output folder {target}; choose another output folder")


def _check_space(files: list[Path], folder: Path) -> None:
    """The text is copied: refuse at once where it cannot fit."""
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder.parent}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


@contextlib.contextmanager
def _explain_full_disk(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{target}: {error.strerror}: make room on that disk and run this again; nothing there was changed"
        ) from None


def _require_same(files: list[Path], target: Path, language: str, progress: ProgressCallback) -> None:
    """UserError unless `target` is a complete dataset of exactly the lines of `files`."""
    refusal = f"{target}: the output folder is not empty"
    advice = "choose another folder, or pass --overwrite to replace the dataset in it, or --append to add to it"
    try:
        dataset = IndexedDataset(target)
    except UserError as error:
        raise UserError(f"{refusal} and holds no complete dataset ({error}); {advice}") from None
    if dataset.meta.get("language") != language:
        raise UserError(f"{refusal}, its dataset has language {dataset.meta.get('language')!r}; {advice}")
    generations = dataset.generations
    if len(generations) > 1 or not _is_of(generations[0], files, progress):
        raise UserError(f"{refusal} and holds other data than {', '.join(map(str, files))}; {advice}")


def _is_of(generation: dict[str, Any], files: list[Path], progress: ProgressCallback) -> bool:
    """Whether the records of a generation were made from the text of these files."""
    sizes = sum(path.stat().st_size for path in files)
    if abs(sizes - generation.get("source_bytes", 0)) > len(files):  # last newlines may be missing
        return False
    return source_digest(files, progress) == generation.get(SOURCE_DIGEST)


def source_digest(files: list[Path], progress: ProgressCallback) -> str:
    """The digest of the text of files, one after the other, each ending in a newline."""
    digest, done = xxhash.xxh3_128(), 0
    for path in files:
        for block in read_blocks(path, sys.maxsize):
            digest.update(block.read())
            done += block.size
            progress(done, 0)
    return digest.hexdigest()
