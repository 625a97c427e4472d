"""Turn data for finetuning, or plain text, into jsonl with "input" and "output". It may be a JSON array, jsonl, csv
(each also as .gz) or parquet, which the suffix says.

    %(prog)s --path medical_o1_sft_Chinese.json --output DIR
    %(prog)s --format alpaca --path alpaca.json --output alpaca.jsonl
    %(prog)s --format sharegpt --path conversations.jsonl --output chat.jsonl
    %(prog)s --format text --path pages.parquet --text-field content --output pages.jsonl

qa        Question and Response; the output is a folder, for train.jsonl and test.jsonl. 5 %% of the records, always
          the same ones, go to the test file. Questions that are more than half Chinese are kept.
alpaca    instruction, input, output: the input is the instruction and, on a line below, the input if there is one.
sharegpt  conversations of {"from": "human" | "gpt" | "system", "value": …}: each answer becomes a record, whose input
          is all that was said before it. Each turn is preceded by its tag:
          system text <用户>question<AI>answer<用户>question<AI>   (without spaces)
text      text: the input is empty.

Without --format, the fields of the first record tell it. But for qa, the output is one file, and everything is kept
that has a question and an answer.
"""

import argparse
import dataclasses
import sys

from fm9g.commandline import parse_flags, path_text
from fm9g.data.prepare.formats import FORMATS
from fm9g.data.prepare.question_answer import prepare_questions
from fm9g.data.prepare.writer import kind_of_file, prepare_records

QUESTIONS = {"question_field": "Question", "answer_field": "Response"}
OPTIONS = {
    "question_field": "becomes input (default: Question; alpaca: instruction)",
    "answer_field": "becomes output (default: Response; alpaca: output)",
    "context_field": "alpaca: the field that goes below the question, if it is there (default: input)",
    "conversations_field": "sharegpt: the field that holds the turns (default: conversations)",
    "text_field": "text: the field that holds the text (default: text)",
    "user_tag": "stands before each question (default: <用户>; alpaca: nothing)",
    "assistant_tag": "stands before each answer (default: <AI>; alpaca: nothing)",
    "system_tag": "stands before the system text (default: nothing)",
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-p", "--path", type=path_text, required=True, help="the file to read")
    parser.add_argument(
        "-o",
        "--output",
        type=path_text,
        required=True,
        help="the file to write, for qa the folder; nothing is overwritten",
    )
    parser.add_argument(
        "-f", "--format", choices=["qa", *FORMATS], help="default: told by the fields of the first record"
    )
    for name, meaning in OPTIONS.items():
        parser.add_argument("--" + name.replace("_", "-"), help=meaning)
    arguments = parse_flags(parser)
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    if arguments.format is None and given and given.keys() <= QUESTIONS.keys():
        arguments.format = "qa"  # as it was before formats were told
    if arguments.format is None:
        kind = kind_of_file(arguments.path)
        given, arguments.format = dict(kind.options) | given, kind.format
        flags = "".join(f" --{name.replace('_', '-')} {value}" for name, value in kind.options)
        print(f"{arguments.path}: {kind.name}, as --format {kind.format}{flags} reads them", file=sys.stderr)
    form = FORMATS.get(arguments.format)
    known = {field.name for field in dataclasses.fields(form)} if form else QUESTIONS.keys()
    for name in given.keys() - known:
        parser.error(f"--{name.replace('_', '-')} means nothing for --format {arguments.format}")
    if form is None:
        report_questions(arguments.path, arguments.output, **(QUESTIONS | given))
    else:
        print(f"{arguments.output}: {prepare_records(arguments.path, arguments.output, form(**given))}")


def report_questions(path: str, output: str, question_field: str, answer_field: str) -> None:
    """Prepare questions and answers, and say how many went where."""
    counts = prepare_questions(path, output, question_field, answer_field)
    print(
        f"{output}: {counts.train} records in train.jsonl, {counts.test} in test.jsonl; "
        f"left out: {counts.empty} with an empty question, {counts.not_chinese} not mostly Chinese"
    )
