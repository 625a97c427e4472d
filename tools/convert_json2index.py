#!/usr/bin/env python
"""Index a jsonl file so that training can read any of its records at once.

python convert_json2index.py --path X.jsonl --language zh --output DIR
python convert_json2index.py --check DIR
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commandline import parse_flags
from fm9g.data.build import build, check
from fm9g.data.swap import leftovers
from fm9g.errors import run_command
from fm9g.progress import Progress


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-p", "--path", help="the jsonl file: one JSON object a line, UTF-8")
    parser.add_argument("-l", "--language", choices=["zh", "en", "code"], help="how tokens are estimated in meta.json")
    parser.add_argument("-o", "--output", help="the folder to write: data.jsonl, index, index.h5, meta.json")
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset in a folder that is not empty")
    parser.add_argument("--check", metavar="DIR", help="verify every byte of a dataset and refresh its index's time")
    arguments = parse_flags(parser)
    building = {"--path": arguments.path, "--language": arguments.language, "--output": arguments.output}
    if arguments.check is None:
        missing = [flag for flag, value in building.items() if value is None]
        if missing:
            parser.error(f"missing: {', '.join(missing)}")
    elif arguments.overwrite or any(value is not None for value in building.values()):
        parser.error("--check takes a dataset folder and nothing else")
    return arguments


def _check(folder: str) -> None:
    with Progress(f"checking {folder}") as progress:
        compared = check(folder, progress)
    verified = "every byte and every bound" if compared else "every bound (it has no digest to compare the data with)"
    print(f"{folder}: verified {verified}")


def _build(arguments: argparse.Namespace) -> None:
    for leftover in leftovers(arguments.output):
        print(f"note: {leftover} is from a build that was killed, or is still running", file=sys.stderr)
    with Progress(f"indexing {arguments.path}") as progress:
        meta = build(arguments.path, arguments.output, arguments.language, arguments.overwrite, progress)
    if meta is None:
        print(f"{arguments.output}: holds this data already, nothing to do")
        return
    print(
        f"{arguments.output}: {meta['nlines']} records, {meta['nbytes']} bytes, "
        f"about {meta['avg_token_per_line']:.0f} tokens a record"
    )
    if meta["records_without_text"]:
        print(
            f'warning: {meta["records_without_text"]} records have no text in "input" nor "output" (the first is line '
            f"{meta['first_record_without_text']}): training on them needs a transform in the mixture",
            file=sys.stderr,
        )


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    if arguments.check is not None:
        _check(arguments.check)
    else:
        _build(arguments)


if __name__ == "__main__":
    run_command(main)
