"""tools/convert_to_conv_data.py and tools/convert_dataset.py, with the flags that users of others know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.tokens.tokenizer import load_tokenizer
from tests.support.places import Place

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


def test_datasets_of_llama_factory_become_a_mixture(shown_by: Shown, tmp_path: Path, place: Place) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORDS * 3))
    (tmp_path / "t.txt").write_text("月光\n故乡\n")
    info = {"a": {"file_name": "a.json", "num_samples": 2}, "t": {"file_name": "t.txt", "columns": {"prompt": "text"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    flags = ("--dataset_info", "dataset_info.json", "--dataset", "a,t", "--output", "mixtures/x.json")
    assert "mixtures/x.json: a mixture of a, t" in shown_by("convert_dataset_info.py", *flags, "--template", "belle")
    chat, text = read_mixture(tmp_path / "mixtures/x.json")
    assert (chat.format, chat.template, text.format) == ("chat", "belle", "text")
    assert [len(IndexedDataset(entry.path)) for entry in (chat, text)] == [6, 2]
    assert [IndexedDataset(entry.path).meta["language"] for entry in (chat, text)] == ["en", "zh"]
    again = shown_by("convert_dataset_info.py", *flags, "--template", "belle")
    assert "mixtures/x.json: is there already, nothing to do" in again
    assert "exists already and says something else" in shown_by("convert_dataset_info.py", *flags, status=1)
    assert sorted(path.name for path in (tmp_path / "mixtures/x.data").iterdir()) == ["a", "t"]
    counted = (*flags[:-1], "mixtures/y.json", "--template", "belle", "--tokenizer_path", place.tokenizer)
    assert "mixtures/y.json: a mixture" in shown_by("convert_dataset_info.py", *counted)
    known = load_tokenizer(place.tokenizer)
    weights = [entry["abs_weight"] for entry in json.loads((tmp_path / "mixtures/y.json").read_text())]
    assert weights[1] == sum(len(known.encode(f"\n{text}")) for text in ("月光", "故乡"))
    for wrong in ("a,a", ""):
        assert "names a dataset twice, or none" in shown_by(
            "convert_dataset_info.py", *flags[:3], wrong, *flags[4:], status=1
        )
