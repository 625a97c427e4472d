"""The command lines of the data tools, run as users run them, from another folder."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fm9g.data.index.dataset import IndexedDataset

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def run(tmp_path):
    def run(tool, *arguments, status=0, **options):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, timeout=60, **options)
        assert done.returncode == status, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done

    return run


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    "tool", ["convert_txt2jsonl.py", "convert_json2index.py", "prepare_data.py", "train_tokenizer.py"]
)
def test_help_and_unknown_flags(run, tool):
    assert b"usage" in run(tool, "--help").stdout
    assert b"--nonsense" in run(tool, "--nonsense", status=2, input=b"").stderr or tool != "convert_txt2jsonl.py"


def test_text_to_jsonl(run):
    text = '\ufeff  第一行 "quoted" \\ \r\n\n \t \u3000\nline\u2028two\n最後'.encode()
    assert run("convert_txt2jsonl.py", input=text).stdout.decode() == (
        '{"input": "", "output": "第一行 \\"quoted\\" \\\\"}\n'
        '{"input": "", "output": "line\u2028two"}\n'
        '{"input": "", "output": "最後"}\n'
    )
    assert run("convert_txt2jsonl.py", input=b"").stdout == b""


def test_text_that_is_not_utf8(run):
    done = run("convert_txt2jsonl.py", input="好\n".encode() + "中文".encode("gbk"), status=1)
    assert done.stderr.startswith(b"error: stdin, line 2, byte 4: not UTF-8")
    assert b"iconv" in done.stderr


def test_broken_pipe_is_quiet(tmp_path):
    command = f"yes 'some text' | head -n 300000 | {sys.executable} {TOOLS}/convert_txt2jsonl.py | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert done.stdout == b'{"input": "", "output": "some text"}\n'
    assert done.stderr == b""


def test_index_a_file(run, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"input": "", "output": f"詩 {i}"} for i in range(7)])
    done = run("convert_json2index.py", "-p", "a.jsonl", "-l", "zh", "-o", "out/set")
    assert done.stdout.startswith(b"out/set: 7 records, ")
    assert done.stderr == b""
    assert len(IndexedDataset(tmp_path / "out/set")) == 7

    again = run("convert_json2index.py", "--path", source, "--language=zh", "--output", "out/set")
    assert b"nothing to do" in again.stdout
    refused = run("convert_json2index.py", "-p", source, "-l", "code", "-o", "out/set", status=1)
    assert refused.stderr.startswith(b"error: ")
    assert refused.stderr.count(b"\n") == 1
    run("convert_json2index.py", "-p", source, "-l", "code", "-o", "out/set", "--overwrite")
    assert IndexedDataset(tmp_path / "out/set").meta["language"] == "code"


def test_check_a_dataset(run, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"input": "", "output": f"詩 {i}"} for i in range(7)])
    run("convert_json2index.py", "-p", "a.jsonl", "-l", "zh", "-o", "set")
    run("convert_json2index.py", "-p", "a.jsonl", "-l", "zh", "-o", "other")
    verified = run("check_index.py", "set")
    assert verified.stdout == b"set: verified: every record fits its checksum, the data its digest\n"
    with open(tmp_path / "set/data.jsonl", "r+b") as data:
        data.seek(40)
        data.write(b"!")
    found = run("check_index.py", "set", "other", status=1)
    assert found.stdout.startswith(b"set/data.jsonl, record 1 (line 2), byte 33: not what was indexed\nset: 1 damaged")
    assert b"other: verified" in found.stdout
    assert found.stderr.endswith(b"error: 1 of 2 dataset(s) damaged: restore or rebuild them\n")


def test_index_skips_and_appends(run, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"output": "x"}\n{"output": }\n\n{"output": ""}\n')
    done = run("convert_json2index.py", "-p", "a.jsonl", "-l", "en", "-o", "set", "--on-error", "skip")
    assert b"warning: 1 lines were left out: they are in set/rejected.jsonl" in done.stderr
    assert b"warning: 1 blank lines were left out" in done.stderr
    assert b"warning: 1 records are empty: training skips them" in done.stderr
    write_jsonl(tmp_path / "b.jsonl", [{"output": "y"}])
    run("convert_json2index.py", "-p", "b.jsonl", "-l", "en", "-o", "set", "--append")
    assert len(IndexedDataset(tmp_path / "set")) == 3
    both = run("convert_json2index.py", "-p", "b", "-l", "en", "-o", "set", "--append", "--overwrite", status=2)
    assert b"--append and --overwrite exclude each other" in both.stderr


def test_index_speaks_of_what_needs_care(run, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"output": "x"}, {"text": "y"}, {"text": "z"}])
    (tmp_path / ".set.999999999.abcdef01.partial").mkdir()
    done = run("convert_json2index.py", "-p", "a.jsonl", "-l", "en", "-o", "set")
    assert b"warning: 2 records have no text" in done.stderr
    assert b"the first is record 1 (line 2), their fields are ('text')" in done.stderr
    assert b"warning: texts in other fields than input and output are not read; they are texts: python" in done.stderr
    assert b".set.999999999.abcdef01.partial, which a killed command left" in done.stderr


def test_index_wrong_commands(run, tmp_path):
    missing = run("convert_json2index.py", "-p", "a", status=2).stderr
    assert b"required: -l/--language, -o/--output" in missing
    assert b"invalid choice" in run("convert_json2index.py", "-p", "a", "-l", "fr", "-o", "b", status=2).stderr
    (tmp_path / "a.jsonl").write_bytes(b'{}\n{"a": }\n')
    done = run("convert_json2index.py", "-p", "a.jsonl", "-l", "en", "-o", "b", status=1)
    assert done.stderr.startswith(b"error: a.jsonl, line 2, byte 3: not valid JSON: Expecting value (column 7)")
    assert not (tmp_path / "b").exists()


def questions():
    rng = random.Random(0)
    kinds = ["", "第{}個問題是什麼", "question {}", "問題{}abc", None]
    return [
        {"Question": kind and kind.format(i), "Complex_CoT": "", "Response": f"答{i}"}
        for i, kind in enumerate(rng.choices(kinds, k=203))
    ]


def plain_split(records):
    """What datasets.train_test_split(test_size=0.05, seed=3014) and the old filter give."""
    order = np.random.default_rng(3014).permutation(len(records))
    return [
        [
            {"input": question, "output": records[i]["Response"]}
            for i in part
            if (question := records[i]["Question"])
            and sum("\u4e00" <= c <= "\u9fa5" for c in question) / len(question) > 0.5
        ]
        for part in (order[11:], order[:11])  # 5 % of 203, rounded up, are tested
    ]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_prepare_data(run, tmp_path, form):
    records = questions()
    if form == "jsonl":
        write_jsonl(tmp_path / "qa", records)
    else:
        (tmp_path / "qa").write_text("\n " + json.dumps(records, indent=1))
    done = run("prepare_data.py", "--path", "qa", "--output", "out")
    assert done.stderr == b"qa: questions with answers, as --format qa reads them\n"
    found = [read_jsonl(tmp_path / "out" / name) for name in ("train.jsonl", "test.jsonl")]
    assert found == plain_split(records)
    assert found[1]
    empty = sum(not record["Question"] for record in records)
    assert f"{empty} with an empty question" in done.stdout.decode()
    assert b"exists already" in run("prepare_data.py", "--path", "qa", "--output", "out", status=1).stderr


def test_prepare_data_fields_and_faults(run, tmp_path):
    write_jsonl(tmp_path / "qa", [{"提問": f"問題第{i}", "a": "答"} for i in range(3)])
    done = run("prepare_data.py", "--path", "qa", "--output", "o", "--question_field", "提問", "--answer-field=a")
    assert b"2 records in train.jsonl, 1 in test.jsonl" in done.stdout
    assert len(read_jsonl(tmp_path / "o/train.jsonl")) == 2
    faults = {
        '{"Questions": "x", "Response": "y"}\n': "of no known format (fields: 'Questions', 'Response')",
        '{"Question": 3, "Response": "y"}\n': "record 0 (the first is 0): 'Question' is not a string",
        '{"Question": "x", "Response": null}\n': "record 0 (the first is 0): 'Response' is not a string",
        '{"Question": "x", "Response": "y"}\n{\n': "line 2, byte 35: not valid JSON",
        '{"Question": "x", "Response": "y"}\n': "no question left",
        "[1]": "record 0 (the first is 0): not a JSON object",
        "": "holds no records",
    }
    for content, message in faults.items():
        (tmp_path / "bad").write_text(content)
        assert message in run("prepare_data.py", "--path", "bad", "--output", "o2", status=1).stderr.decode()
    assert not (tmp_path / "o2").exists()
    assert b"no such file" in run("prepare_data.py", "--path", "absent", "--output", "o2", status=1).stderr


def test_train_tokenizer(run, tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"input": "", "output": f"明月光 {name} {i}"} for i in range(50)])
    arguments = ("--path", "a.jsonl", "b.jsonl", "--vocab_size", "280", "--output", "t")
    assert run("train_tokenizer.py", *arguments).stdout == b"t: 280 tokens\n"
    content = (tmp_path / "t/tokenizer.json").read_bytes()
    assert b"not empty" in run("train_tokenizer.py", *arguments, status=1).stderr
    (tmp_path / "t/notes").write_text("mine")
    run("train_tokenizer.py", *arguments, "--overwrite")
    assert (tmp_path / "t/tokenizer.json").read_bytes() == content
    assert {entry.name for entry in (tmp_path / "t").iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "notes",
    }  # fmt: skip
    few = run("train_tokenizer.py", "--path", "a.jsonl", "--vocab-size", "5000", "--output", "u")
    assert b"warning" in few.stderr
    write_jsonl(
        tmp_path / "c.jsonl", [{"instruction": "do it", "input": "", "output": f"明月光 {i}"} for i in range(50)]
    )
    told = run("train_tokenizer.py", "--path", "c.jsonl", "--vocab-size", "280", "--output", "w").stderr
    assert told.count(b"warning: texts in other fields than input and output are not read; they are instr") == 1
    assert b"too small" in run("train_tokenizer.py", *arguments[:4], "9", "--output", "v", status=1).stderr
    assert not (tmp_path / "v").exists()
