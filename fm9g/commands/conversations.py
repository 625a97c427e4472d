"""Turn instructions with answers into conversations, one a line, as BELLE's convert_to_conv_data.py does.

    %(prog)s --orig_data school_math.json --write_data school_math_conv.json --dataset_name school_math

A record has an instruction, an output, and perhaps an input and an id; earlier rounds (history), a system text, tools
and a weight are kept:

    {"id": …, "conversations": [{"from": "human", "value": instruction + input},
                                {"from": "assistant", "value": output}]}

Where a record has no id, it is called NAME-1, NAME-2, … by its number. `head` and `tail` of the result are the parts to
train and to test on.
"""

import argparse

from fm9g.commandline import parse_flags, path_text
from fm9g.data.prepare.conversations import with_ids


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--orig-data", type=path_text, required=True, help="the file to read: JSON, jsonl, csv, parquet"
    )
    parser.add_argument("--write-data", type=path_text, required=True, help="the file to write; nothing is overwritten")
    parser.add_argument("--dataset-name", required=True, help="what records without an id are called after")
    arguments = parse_flags(parser)
    report = with_ids(arguments.orig_data, arguments.write_data, arguments.dataset_name)
    print(f"{arguments.write_data}: {report}")
