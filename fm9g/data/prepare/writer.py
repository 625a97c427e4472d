"""Data of a usual format, in any file that `readers` reads, to one jsonl file of other records."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fm9g.data.prepare.formats import Format
from fm9g.data.prepare.readers import check_fields, read_source
from fm9g.data.record import field_names, record_name
from fm9g.data.record_kinds import KINDS, RecordKind, recognise
from fm9g.errors import UserError
from fm9g.files import atomic_file, require_file


@dataclass
class Report:
    """What became of a source's records."""

    read: int = 0
    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        text = f"{self.written} records written from {self.read} read"
        reasons = [f"{count} {reason}" for reason, count in self.left_out.items() if count]
        return f"{text}; left out: {', '.join(reasons)}" if reasons else text


def prepare_records(source: str | os.PathLike[str], output: str | os.PathLike[str], form: Format) -> Report:
    """Write the pairs of `source` to the file `output`, record by record, in their order.

    The file appears when it is complete. UserError, which names the record, for one that is not of the format; for
    an output that exists; and where nothing is left to write.
    """

    def make(record: dict[str, Any], report: Report) -> Iterator[dict[str, Any]]:
        return ({"input": prompt, "output": answer} for prompt, answer in form.pairs(record, report.left_out))

    return rewrite(source, output, form.required, form.optional, make)


def rewrite(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    required: Collection[str],
    optional: Collection[str],
    make: Callable[[dict[str, Any], Report], Iterable[dict[str, Any]]],
) -> Report:
    """Write to `output` the records that `make` makes of each record of `source`, as prepare_records does.

    A record has the `required` fields; of parquet, the `optional` ones are read besides.
    """
    output = Path(output)
    _refuse_existing(output)
    report = Report()
    made = _made(source, required, optional, make, report)
    first = next(made, None)  # what is wrong with the source itself shows here, before anything is made
    if first is None:
        raise UserError(f"{source}: no record to write: {report}" if report.read else f"{source}: holds no records")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary:
        with open(temporary, "wb") as file:
            file.write(encode_record(first))
            file.writelines(map(encode_record, made))
        _refuse_existing(output)  # it may have taken hours
    return report


def kind_of_file(source: str | os.PathLike[str]) -> RecordKind:
    """The kind of a file's records, told by the fields of the first; UserError, which lists the kinds, for another."""
    if not Path(source).is_file():
        require_file(source)  # a pipe cannot be read twice
    record = next((record for record in read_source(source, (), None) if record), None)
    if record is None:
        raise UserError(f"{source}: holds no records")
    kind = _spelled(record)
    if kind and kind.format:
        return kind
    known = "; ".join(f"{kind.format}: {', '.join(sorted(kind.fields))}" for kind in KINDS if kind.format)
    found = f"{kind.name}, which no objective of this version learns from" if kind else "of no known format"
    raise UserError(
        f"{source}: its records are {found} (fields: {field_names(record)}); choose one with --format and the "
        f"--…-field flags ({known})"
    )


def _spelled(record: dict[str, Any]) -> RecordKind | None:
    """The kind of a record; where it has the fields of several spellings of one kind, that whose fields are filled."""
    kind = recognise(record)
    filled = {name for name, value in record.items() if value is not None}
    spellings = [other for other in KINDS if kind and other.name == kind.name and other.fields <= filled]
    return spellings[0] if spellings else kind


def encode_record(record: dict[str, Any]) -> bytes:
    """A line of jsonl; what JSON can spell but UTF-8 cannot (half a surrogate pair) stays spelled as in JSON."""
    try:
        return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode("ascii") + b"\n"


def _made(
    source: str | os.PathLike[str],
    required: Collection[str],
    optional: Collection[str],
    make: Callable[[dict[str, Any], Report], Iterable[dict[str, Any]]],
    report: Report,
) -> Iterator[dict[str, Any]]:
    for record in read_source(source, required, optional):
        report.read += 1
        if not record:
            report.left_out["empty records"] += 1
            continue
        try:
            check_fields(required, record)
            for made in make(record, report):
                report.written += 1
                yield made
        except UserError as error:
            raise UserError(f"{source}, {record_name(report.read - 1, lines=False)}: {error}") from None


def _refuse_existing(output: Path) -> None:
    if output.is_dir():
        raise UserError(f"{output}: is a folder; give the name of the file to write")
    if output.exists():
        raise UserError(f"{output}: exists already; choose another output file, or move it away")
