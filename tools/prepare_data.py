#!/usr/bin/env python
"""Turn questions and answers (jsonl, or a JSON array) into train.jsonl and test.jsonl with "input" and "output".

    python prepare_data.py --path medical_o1_sft_Chinese.json --output DIR

5 % of the records, always the same ones, go to the test file. Questions that are more than half Chinese are kept.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commandline import parse_flags
from fm9g.data.questions import prepare_questions
from fm9g.errors import run_command


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-p", "--path", required=True, help="the jsonl file, or JSON file that holds an array")
    parser.add_argument("-o", "--output", required=True, help="the folder for train.jsonl and test.jsonl")
    parser.add_argument("--question-field", default="Question", help="becomes input (default: %(default)s)")
    parser.add_argument("--answer-field", default="Response", help="becomes output (default: %(default)s)")
    arguments = parse_flags(parser)
    counts = prepare_questions(arguments.path, arguments.output, arguments.question_field, arguments.answer_field)
    print(
        f"{arguments.output}: {counts.train} records in train.jsonl, {counts.test} in test.jsonl; "
        f"left out: {counts.empty} with an empty question, {counts.not_chinese} not mostly Chinese"
    )


if __name__ == "__main__":
    run_command(main)
