"""tools/convert_to_conv_data.py and tools/convert_dataset.py, with the flags that users of others know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

RECORDS = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "d", "output": "e"}]
Shown = Callable[..., str]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_conversations_with_ids(shown_by: Shown, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORDS))
    flags = ("--orig_data", "a.json", "--write_data", "new/b.json", "--dataset_name", "CRA")
    assert shown_by("convert_to_conv_data.py", *flags) == "new/b.json: 2 records written from 2 read\n"
    assert [line["id"] for line in lines(tmp_path / "new/b.json")] == ["CRA-1", "CRA-2"]
    assert "error: new/b.json: exists already" in shown_by("convert_to_conv_data.py", *flags, status=1)
    assert "usage" in shown_by("convert_to_conv_data.py", "--help")


def test_conversations_of_either_kind(shown_by: Shown, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (tmp_path / "q.csv").write_text("input,output\nwhat,that\n")
    shown_by("convert_dataset.py", "--in_file", "a.jsonl", "--out_file", "b.jsonl")
    flags = ("--in_file", "q.csv", "--out_file", "c.jsonl", "--data_type", "qa")
    shown_by("convert_dataset.py", *flags, "--file_type", "csv")
    asked = [line["conversations"][0]["value"] for name in ("b", "c") for line in lines(tmp_path / f"{name}.jsonl")]  # type: ignore[index]
    assert asked == ["a\n\nb", "d", "what"]
    wrong = shown_by("convert_dataset.py", *flags, "--file_type", "json", status=1)
    assert "--file_type is json, which the file's suffix contradicts" in wrong
