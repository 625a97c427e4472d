"""Verify every byte of an indexed dataset: each record against its checksum, each bound against the data.

%(prog)s DIR [DIR ...]

If everything fits, the times of the index are set to now, so that a copy whose times were not kept is accepted. Exit
status 1 where something does not fit.
"""

import argparse
import sys

from fm9g.commandline import parse_flags, path_text
from fm9g.data.index.check import Report, check
from fm9g.data.record import record_name
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressBar


def _describe(report: Report) -> str:
    if report.checksums:
        return "every record fits its checksum" + (", the data its digest" if report.digest else "")
    if report.digest:
        return "every bound fits, the data fits its digest"
    return "every bound fits (there are no checksums nor a digest to compare the data with)"


def _check(folder: str) -> bool:
    with ProgressBar(f"checking {folder}") as progress:
        report = check(folder, progress)
    for found in report.unusable():
        print(f"warning: {folder}: {found}", file=sys.stderr)
    if not report.damaged_count:
        print(f"{folder}: verified: {_describe(report)}")
        return True
    for record, offset in report.damaged:
        print(f"{folder}/data.jsonl, {record_name(record)}, byte {offset}: not what was indexed")
    print(f"{folder}: {report.damaged_count} damaged record(s)")
    return False


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=path_text, metavar="DIR", help="an indexed dataset")
    fits = [_check(folder) for folder in parse_flags(parser).folders]
    if not all(fits):
        raise UserError(f"{fits.count(False)} of {len(fits)} dataset(s) damaged: restore or rebuild them")
