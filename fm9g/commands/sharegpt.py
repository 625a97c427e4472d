"""Turn instructions or questions with answers into conversations, one a line, as MedicalGPT's convert_dataset.py does.

    %(prog)s --in_file alpaca.json --out_file sharegpt.jsonl
    %(prog)s --in_file questions.csv --out_file sharegpt.jsonl --data_type qa

alpaca  instruction, input, output: an input stands below the instruction and a blank line
qa      input, output

    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": output}]}
"""

import argparse
from pathlib import Path

from fm9g.commandline import parse_flags, path_text
from fm9g.data.prepare.conversations import QUESTIONS, without_ids
from fm9g.errors import UserError


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-file", type=path_text, required=True, help="the file to read: JSON, jsonl, csv, parquet")
    parser.add_argument("--out-file", type=path_text, required=True, help="the file to write; nothing is overwritten")
    parser.add_argument(
        "--data-type", choices=QUESTIONS, default="alpaca", help="what its records are (default: alpaca)"
    )
    parser.add_argument("--file-type", choices=["json", "csv"], help="default: told by the file's suffix")
    arguments = parse_flags(parser)
    suffixes = [suffix.lower() for suffix in Path(arguments.in_file).suffixes]
    if arguments.file_type and (arguments.file_type == "csv") != (".csv" in suffixes):
        raise UserError(
            f"{arguments.in_file}: --file_type is {arguments.file_type}, which the file's suffix contradicts"
        )
    report = without_ids(arguments.in_file, arguments.out_file, arguments.data_type)
    print(f"{arguments.out_file}: {report}")
