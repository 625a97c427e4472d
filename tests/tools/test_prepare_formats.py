"""tools/prepare_data.py beyond questions and answers, run as users run it, from another folder."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from fm9g.data.index.build import build
from fm9g.data.index.dataset import IndexedDataset

TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_data.py"
TALK = [{"from": "human", "value": "一"}, {"from": "gpt", "value": "二"}, {"from": "human", "value": "三"}]


@pytest.fixture
def run(tmp_path: Path):
    def run(*arguments: object, status: int = 0) -> str:
        """What it prints, on stdout or, if it fails, on stderr."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [sys.executable, str(TOOL), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert not (done.stdout if status else done.stderr)
        return done.stderr if status else done.stdout

    return run


def read(path: Path) -> list[tuple[str, str]]:
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert all(list(record) == ["input", "output"] for record in records)
    return [(record["input"], record["output"]) for record in records]


def test_alpaca(run, tmp_path: Path) -> None:
    records = [{"instruction": "譯", "input": "x", "output": "y"}, {"instruction": "z", "input": "", "output": ""}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    shown = run("--format", "alpaca", "--path", "a.json", "--output", "new/b.jsonl")
    assert shown == "new/b.jsonl: 1 records written from 2 read; left out: 1 empty answers\n"
    assert read(tmp_path / "new/b.jsonl") == [("譯\nx", "y")]
    again = run("--format", "alpaca", "--path", "a.json", "--output", "new/b.jsonl", status=1)
    assert again.startswith("error: new/b.jsonl: exists already")
    assert "is a folder" in run("--format", "alpaca", "--path", "a.json", "--output", "new", status=1)


def test_sharegpt(run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": TALK}) + '\n{"conversations": []}\n')
    shown = run("-f", "sharegpt", "-p", "a.jsonl", "-o", "b.jsonl")
    left_out = "1 turns at the end without an answer, 1 empty conversations"
    assert shown == f"b.jsonl: 1 records written from 2 read; left out: {left_out}\n"
    assert read(tmp_path / "b.jsonl") == [("<用户>一<AI>", "二")]


def test_tags_and_fields(run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"talk": TALK[:2], "system": "S"}) + "\n")
    tags = ["--system_tag=<s>", "--user-tag", "<u>", "--assistant-tag", "<a>"]
    run("--format", "sharegpt", "--path", "a.jsonl", "--output", "b.jsonl", "--conversations-field", "talk", *tags)
    assert read(tmp_path / "b.jsonl") == [("<s>S<u>一<a>", "二")]
    (tmp_path / "a.csv").write_text("q,c,a\n1,2,3\n")
    fields = ["--question-field", "q", "--context-field", "c", "--answer-field", "a"]
    run("--format", "alpaca", "--path", "a.csv", "--output", "c.jsonl", *fields)
    assert read(tmp_path / "c.jsonl") == [("1\n2", "3")]


def test_text_can_be_indexed(run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "a\\u2028b"}\n{"content": "c"}\n')
    assert "did you mean 'content'" in run("--format", "text", "--path", "a.jsonl", "--output", "b", status=1)
    run("--format", "text", "--text-field", "content", "--path", "a.jsonl", "--output", "b.jsonl")
    build(tmp_path / "b.jsonl", tmp_path / "index", "en")
    dataset = IndexedDataset(tmp_path / "index")
    assert [dataset.record(i)["output"] for i in range(len(dataset))] == ["a\u2028b", "c"]


def test_parquet(run, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"conversations": [TALK, TALK[:2]], "id": [1, 2]}), tmp_path / "a.parquet")
    run("--format", "sharegpt", "--path", "a.parquet", "--output", "b.jsonl")
    assert read(tmp_path / "b.jsonl") == [("<用户>一<AI>", "二")] * 2


@pytest.mark.parametrize("name", ["qa.csv", "qa.parquet"])
def test_questions_from_tables(run, tmp_path: Path, name: str) -> None:
    rows = [{"Question": f"問題第{i}", "Response": f"答\n{i}"} for i in range(40)]
    if name == "qa.csv":
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, ["Question", "Response"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    run("--path", name, "--output", "table", "--format", "qa")
    run("--path", "qa.json", "--output", "json", "--format", "qa")
    for part in ("train.jsonl", "test.jsonl"):
        assert read(tmp_path / "table" / part) == read(tmp_path / "json" / part) != []


@pytest.mark.parametrize(
    ("form", "flag"),
    [("qa", "--user-tag"), ("qa", "--text-field"), ("text", "--question-field"), ("alpaca", "--conversations-field")],
)
def test_a_flag_that_would_do_nothing_is_refused(run, form: str, flag: str) -> None:
    shown = run("--format", form, "--path", "a", "--output", "b", flag, "x", status=2)
    assert f"{flag} means nothing for --format {form}" in shown


def test_nothing_to_write(run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    assert "holds no records" in run("-f", "text", "-p", "a.jsonl", "-o", "b.jsonl", status=1)
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    shown = run("-f", "text", "-p", "a.jsonl", "-o", "b.jsonl", status=1)
    assert "no record to write: 0 records written from 1 read; left out: 1 empty texts" in shown
    assert not (tmp_path / "b.jsonl").exists()
