"""What a file's records are, told by their fields."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from fm9g.data.prepare.formats import FORMATS
from fm9g.data.prepare.writer import kind_of_file, prepare_records
from fm9g.errors import UserError
from tests.support.builds import dump

TALK = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("record", "format"),
    [
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"id": 1, "conversations": TALK}, "sharegpt"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "sharegpt"),
        ({"conversations": None, "messages": TALK}, "sharegpt"),
        ({"prompt": "q", "completion": "a"}, "alpaca"),
        ({"text": "a", "url": "x"}, "text"),
        ({"content": "a"}, "text"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_known_kind_is_prepared_as_it_is(tmp_path, record, format, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist([record]), path)
    else:
        path.write_bytes(b"{}\n" + dump(record) if suffix == "jsonl" else json.dumps([record]).encode())
    kind = kind_of_file(path)
    assert kind.format == format
    prepare_records(path, tmp_path / "out.jsonl", FORMATS[format](**dict(kind.options)))
    assert json.loads((tmp_path / "out.jsonl").read_bytes())["output"] == "a"


def test_questions_and_answers_are_known(tmp_path):
    (tmp_path / "x.csv").write_text("Question,Response,id\nq,a,1\n")
    assert kind_of_file(tmp_path / "x.csv").format == "qa"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"frage": "q", "antwort": "a"}, "of no known format (fields: 'frage', 'antwort'); choose one with --format"),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            "preferences, which no objective of this version learns from",
        ),
    ],
)
def test_other_records_are_asked_about(tmp_path, record, says):
    (tmp_path / "x.jsonl").write_bytes(dump(record))
    with pytest.raises(UserError) as error:
        kind_of_file(tmp_path / "x.jsonl")
    assert says in str(error.value)
    assert "alpaca: instruction, output" in str(error.value)


def test_a_file_without_records_has_no_kind(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"{}\n{}\n")
    with pytest.raises(UserError, match="holds no records"):
        kind_of_file(tmp_path / "x.jsonl")
