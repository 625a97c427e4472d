"""Question-and-answer data to {"input", "output"} jsonl, split into train and test.

The split is that of the scripts users had before (Hugging Face datasets: `train_test_split(test_size=0.05,
seed=3014)`), so a test set made with them and one made here hold the same questions in the same order.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fm9g.data.prepare.readers import read_source
from fm9g.data.prepare.writer import encode_record
from fm9g.data.record import record_name
from fm9g.errors import UserError, closest
from fm9g.files import atomic_file

TEST_FRACTION = 0.05
SEED = 3014


@dataclass
class Counts:
    """How many questions went where."""

    train: int = 0
    test: int = 0
    empty: int = 0
    not_chinese: int = 0


def prepare_questions(
    source: str | os.PathLike[str], output: str | os.PathLike[str], question_field: str, answer_field: str
) -> Counts:
    """Write output/train.jsonl and output/test.jsonl from any file that `read_source` reads.

    Questions that are empty, or at most half Chinese, are left out and counted. The data is held in memory.
    UserError for existing outputs, a missing field, a field that is no string.
    """
    output = Path(output)
    paths = [output / "train.jsonl", output / "test.jsonl"]
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already; choose another output folder, or move it away")
    fields = (question_field, answer_field)
    records = [
        _pair(record, f"{source}, {record_name(n, lines=False)}", *fields)
        for n, record in enumerate(read_source(source, fields))
    ]
    if not records:
        raise UserError(f"{source}: holds no records")
    counts = Counts()
    train, test = (_chinese([records[i] for i in part], counts) for part in split(len(records)))
    if not train:
        raise UserError(
            f"{source}: no question left: {counts.empty} empty, {counts.not_chinese} not mostly Chinese; for "
            f"other languages: --format alpaca --question-field {question_field} --answer-field {answer_field}, with a "
            "file as the output"
        )
    counts.train, counts.test = len(train), len(test)
    output.mkdir(parents=True, exist_ok=True)
    for path, pairs in zip(paths, (train, test), strict=True):
        _write_pairs(path, pairs)
    return counts


def split(count: int) -> tuple[list[int], list[int]]:
    """Record numbers of the train and of the test part, both shuffled."""
    order = np.random.default_rng(SEED).permutation(count).tolist()
    tested = math.ceil(TEST_FRACTION * count)
    return order[tested:], order[:tested]


def is_chinese(text: str) -> bool:
    """Whether more than half of the characters are CJK ideographs (U+4E00 to U+9FA5)."""
    return 2 * sum("\u4e00" <= character <= "\u9fa5" for character in text) > len(text)


def _pair(record: dict[str, Any], where: str, question_field: str, answer_field: str) -> tuple[str, str]:
    for field, flag in ((question_field, "--question-field"), (answer_field, "--answer-field")):
        if field not in record:
            raise UserError(f"{where}: no field {field!r}{closest(field, record)}; see {flag}")
    question = "" if record[question_field] is None else record[question_field]
    answer = record[answer_field]
    for field, value in ((question_field, question), (answer_field, answer)):
        if not isinstance(value, str):
            raise UserError(f"{where}: {field!r} is not a string")
    return question, answer


def _chinese(pairs: list[tuple[str, str]], counts: Counts) -> list[tuple[str, str]]:
    kept = []
    for question, answer in pairs:
        if not question.strip():
            counts.empty += 1
        elif not is_chinese(question):
            counts.not_chinese += 1
        else:
            kept.append((question, answer))
    return kept


def _write_pairs(path: Path, pairs: list[tuple[str, str]]) -> None:
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.writelines(encode_record({"input": question, "output": answer}) for question, answer in pairs)
