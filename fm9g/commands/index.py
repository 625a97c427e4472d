"""Index jsonl files so that training can read any of their records at once.

%(prog)s --path X.jsonl --language zh --output DIR
%(prog)s --path PART1.jsonl PART2.jsonl.gz FOLDER --language en --output DIR --on-error skip
%(prog)s --path MORE.jsonl --language en --output DIR --append

Every line is validated. The folder appears complete or not at all; the same command twice does nothing the second time.
"""

import argparse
import sys

from fm9g.commandline import parse_flags, path_text
from fm9g.data.index.build import Options, build
from fm9g.data.index.parallel import keep_freed_memory
from fm9g.data.record import record_name
from fm9g.data.record_kinds import unread_texts
from fm9g.progress_bar import ProgressBar


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        *("-p", "--path"),
        nargs="+",
        type=path_text,
        required=True,
        help="jsonl files (UTF-8, one JSON object a line), also .jsonl.gz and .jsonl.zst, or folders of them",
    )
    parser.add_argument(
        *("-l", "--language"),
        choices=["zh", "en", "code"],
        required=True,
        help="how tokens are estimated in meta.json",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=path_text,
        required=True,
        help="the folder to write: data.jsonl, index, index.h5, meta.json",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset in a folder that is not empty")
    parser.add_argument("--append", action="store_true", help="add the records to the dataset in the folder")
    parser.add_argument(
        "--on-error",
        choices=["fail", "skip"],
        default="fail",
        help="at a line that is no JSON object: fail (the default), or leave it out and keep it in rejected.jsonl",
    )
    parser.add_argument(
        "--max-line-bytes", type=int, default=1 << 30, metavar="N", help="longer lines are errors (default: 1 GiB)"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--no-validation", action="store_true", help="take lines as they are, without parsing them")
    parser.add_argument(
        "--no-checksums", action="store_true", help="keep no checksums, so that damage cannot be noticed later"
    )
    arguments = parse_flags(parser)
    if arguments.append and arguments.overwrite:
        parser.error("--append and --overwrite exclude each other")
    if arguments.max_line_bytes < 1 or arguments.workers < 0:
        parser.error("--max-line-bytes must be positive, --workers not negative")
    return arguments


def _warn(meta: dict, output: str) -> None:
    notes = {
        "rejected_lines": f"lines were left out: they are in {output}/rejected.jsonl with the reason for each",
        "blank_lines": "blank lines were left out",
        "empty_records": "records are empty: training skips them",
        "records_without_text": 'records have no text to learn in "output": training on them needs another format '
        '("chat") or a transform in the mixture, or skip_unlearned to leave them out' + _first_without_text(meta),
    }
    for key, note in notes.items():
        if meta[key]:
            print(f"warning: {meta[key]:,} {note}", file=sys.stderr)
    for advice in meta["unread_texts"]:
        print(f"warning: {unread_texts(advice)}", file=sys.stderr)


def _first_without_text(meta: dict) -> str:
    if not meta["records_without_text"]:
        return ""
    fields = " or ".join(f"({fields})" for fields in meta["fields_without_text"])
    return f"; the first is {record_name(meta['first_record_without_text'] - 1)}, their fields are {fields}"


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    keep_freed_memory()
    options = Options(
        overwrite=arguments.overwrite,
        append=arguments.append,
        on_error=arguments.on_error,
        validate=not arguments.no_validation,
        checksums=not arguments.no_checksums,
        max_line_bytes=arguments.max_line_bytes,
        workers=arguments.workers,
    )
    with ProgressBar(f"indexing {', '.join(arguments.path)}") as progress:
        meta = build(arguments.path, arguments.output, arguments.language, options, progress)
    if meta is None:
        print(f"{arguments.output}: holds this data already, nothing to do")
        return
    print(
        f"{arguments.output}: {meta['nlines']} records, {meta['nbytes']} bytes, "
        f"about {meta['avg_token_per_line']:.0f} tokens a record"
    )
    _warn(meta, arguments.output)
