"""Instructions become conversations: BELLE's form and MedicalGPT's, whatever the file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fm9g.data.chat.conversation import read_conversation
from fm9g.data.prepare.conversations import with_ids, without_ids
from fm9g.errors import UserError

RECORDS: list[dict[str, Any]] = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Say hello.\n", "input": "", "output": "hello"},
    {"id": "own", "instruction": "译：", "output": "月 "},
    {"id": 7, "instruction": "a", "input": None, "output": None},
]


def source(folder: Path, records: list[dict[str, Any]] = RECORDS, lines: bool = True) -> Path:
    path = folder / "in.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) if lines else json.dumps(records))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def talk(asked: str, answer: str, speaker: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": asked}, {"from": speaker, "value": answer}]


@pytest.mark.parametrize("lines", [True, False])
def test_belles_form_joins_instruction_and_input_and_numbers_from_1(tmp_path: Path, lines: bool) -> None:
    report = with_ids(source(tmp_path, lines=lines), tmp_path / "out.jsonl", "CRA")
    assert (report.read, report.written) == (4, 4)
    assert read(tmp_path / "out.jsonl") == [
        {"id": "CRA-1", "conversations": talk("Add.1 2", "3", "assistant")},
        {"id": "CRA-2", "conversations": talk("Say hello.\n", "hello", "assistant")},
        {"id": "own", "conversations": talk("译：", "月 ", "assistant")},
        {"id": 7, "conversations": talk("a", "", "assistant")},
    ]
    assert "译" in (tmp_path / "out.jsonl").read_text("utf-8")  # not escaped


@pytest.mark.parametrize("write", [lambda a, b: with_ids(a, b, "x"), lambda a, b: without_ids(a, b, "alpaca")])
def test_what_came_before_and_what_is_beside_is_kept(tmp_path: Path, write: Any) -> None:
    record = {"instruction": "Q", "output": "A", "history": [["q", "a"]], "system": "S", "weight": 0.5, "tools": []}
    write(source(tmp_path, [record, {"instruction": "Q", "output": "A", "system": ""}]), tmp_path / "out.jsonl")
    first, second = read(tmp_path / "out.jsonl")
    read_first = read_conversation(first)
    assert [turn.text for turn in read_first.turns] == ["q", "a", "Q", "A"]
    assert (read_first.system, read_first.weight) == ("S", 0.5)
    assert "system" not in second


def test_the_other_form_has_a_blank_line_before_an_input(tmp_path: Path) -> None:
    without_ids(source(tmp_path), tmp_path / "out.jsonl", "alpaca")
    assert read(tmp_path / "out.jsonl") == [
        {"conversations": talk("Add.\n\n1 2", "3", "gpt")},
        {"conversations": talk("Say hello.\n", "hello", "gpt")},
        {"conversations": talk("译：", "月 ", "gpt")},
        {"conversations": talk("a", "", "gpt")},
    ]


def test_questions_of_a_table(tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["input", "output", "other"], ["what, now?", 'it "is"', "x"]])
    without_ids(tmp_path / "in.csv", tmp_path / "out.jsonl", "qa")
    assert read(tmp_path / "out.jsonl") == [{"conversations": talk("what, now?", 'it "is"', "gpt")}]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"instruction": "a"}, "record 1 (the first is 0): no field 'output'"),
        ({"instruction": 3, "output": "b"}, "record 1 (the first is 0): 'instruction' is not a string but 3"),
        ({"instruction": "a", "input": [], "output": "b"}, "'input' is not a string but []"),
    ],
)
def test_a_record_of_another_form_is_named_and_nothing_written(
    tmp_path: Path, record: dict[str, Any], says: str
) -> None:
    path = source(tmp_path, [RECORDS[0], record])
    for write in (lambda out: with_ids(path, out, "x"), lambda out: without_ids(path, out, "alpaca")):
        with pytest.raises(UserError) as error:
            write(tmp_path / "out.jsonl")
        assert says in str(error.value)
        assert not (tmp_path / "out.jsonl").exists()


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        with_ids(source(tmp_path), tmp_path / "out.jsonl", "x")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
