"""Files given to a reader that cannot read them: the message names the command that does."""

import gzip
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fm9g.data.file_kinds import misfit
from fm9g.data.index.build import build
from fm9g.data.jsonl_records import read_records
from fm9g.data.prepare.formats import Text
from fm9g.data.prepare.plain_text import convert_text
from fm9g.data.prepare.writer import prepare_records
from fm9g.errors import UserError
from tests.support.ranks import REPOSITORY

RECORD = '{"input": "", "output": "月 moon"}\n'
PREPARE = "python tools/prepare_data.py --path {} --output NEW.jsonl"
ODD_FILES = {  # name: content, and the command that the message names
    "array.json": (b'[\n {"input": "", "output": "a"}\n]', PREPARE),
    "in one line.json": (b'[{"input": "", "output": "a"}]', "jq -c '.[]' {} > NEW.jsonl"),
    "pretty.jsonl": (b'{\n  "input": "",\n  "output": "a"\n}\n', "jq -c . {} > NEW.jsonl"),
    "half.jsonl": (b'{"input": "",\n  "output": "a"}\n', "jq -c . {} > NEW.jsonl"),
    "commas.jsonl": (b'{"output": "a"},\r\n{"output": "b"}\r\n', "sed 's/,[[:space:]]*$//' {} > NEW.jsonl"),
    "mark.jsonl": (RECORD.encode("utf-16"), "iconv -f UTF-16 -t UTF-8 {} > NEW"),
    "le.jsonl": (RECORD.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8 {} > NEW"),
    "be.jsonl": (RECORD.encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8 {} > NEW"),
    "32.jsonl": (RECORD.encode("utf-32"), "iconv -f UTF-32 -t UTF-8 {} > NEW"),
    "gbk.jsonl": (RECORD.encode("gb18030"), "iconv -f GB18030 -t UTF-8 {} > NEW"),
    "joined.jsonl": (RECORD.encode() + b"\xef\xbb\xbf" + RECORD.encode(), r"sed 's/^\xEF\xBB\xBF//' {} > NEW.jsonl"),
    "a.txt": (b"One line.\nAnother.\n", "python tools/convert_txt2jsonl.py < {} > NEW.jsonl"),
    "text.jsonl": ("一行。\n".encode(), "python tools/convert_txt2jsonl.py < {} > NEW.jsonl"),
    "a.csv": (b"text,id\n\xe6\x9c\x88 moon,1\n", PREPARE),
    "a.tsv": (b"text\tid\nx\t1\n", "save it as csv"),
    "a.parquet": (b"PAR1\x15\x04", PREPARE),
    "a.xlsx": (b"PK\x03\x04\x14\x00", "save the workbook as csv"),
    "packed.jsonl": (gzip.compress(RECORD.encode(), mtime=0), "gzip -dc < {} > NEW.jsonl"),
}
NOT_FOR = {"prepare": {"array.json", "in one line.json", "a.csv", "a.parquet"}}  # which that reads


def quoted(path: Path) -> str:
    return f"'{path}'" if " " in str(path) else str(path)


@pytest.mark.parametrize("name", ODD_FILES)
@pytest.mark.parametrize("reader", ["index", "tokenizer", "prepare"])
def test_every_reader_names_the_command_for_a_file_that_it_cannot_read(tmp_path, reader, name):
    if name in NOT_FOR.get(reader, ()):
        return
    content, command = ODD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    read = {
        "index": lambda: build(path, tmp_path / "set", "zh"),
        "tokenizer": lambda: list(read_records([path])),
        "prepare": lambda: prepare_records(path, tmp_path / "out.jsonl", Text("output")),
    }[reader]
    with pytest.raises(UserError) as error:
        read()
    assert str(error.value).startswith(f"{path}, line ")
    assert command.format(quoted(path)) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.txt", "text.jsonl", "a.csv"])
def test_a_command_of_ours_that_a_message_names_can_be_pasted(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(ODD_FILES[name][0])
    with pytest.raises(UserError) as error:
        build(path, tmp_path / "set", "zh")
    command = re.search(r"python tools/.*NEW\.jsonl", str(error.value))
    assert command is not None
    words = command[0].replace("python ", f"{shlex.quote(sys.executable)} ").replace("NEW", f"{tmp_path}/n")
    subprocess.run(["bash", "-c", words], check=True, timeout=60, cwd=REPOSITORY)
    assert build(tmp_path / "n.jsonl", tmp_path / "set", "zh")


@pytest.mark.parametrize("name", ["mark.jsonl", "le.jsonl", "be.jsonl", "32.jsonl", "gbk.jsonl", "joined.jsonl"])
def test_the_command_that_a_message_names_makes_what_can_be_indexed(tmp_path, name):
    content, command = ODD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    command = command.format(path).replace("NEW.jsonl", "NEW").replace("NEW", f"{tmp_path}/n.jsonl")
    subprocess.run(["bash", "-c", command], check=True, timeout=60)
    meta = build(tmp_path / "n.jsonl", tmp_path / "set", "zh")
    assert meta and meta["data_sample"] == {"input": "", "output": "月 moon"}


@pytest.mark.parametrize("line", [b"[1, 2]", b"plain", b"a,b", b"{", b"PAR1", b'{"a": 1} {"b": 2}'])
def test_a_later_line_says_nothing_of_the_file(line):
    assert misfit("x.jsonl", line, 2) == ""


def test_an_object_that_is_not_json_is_not_taken_for_another_form():
    assert misfit("x.jsonl", b"{'input': 1}", 1) == ""


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.csv", b"a,b\n", PREPARE),
        ("a.txt", b"One line.\n", "python tools/convert_txt2jsonl.py < {} > NEW.jsonl"),
        ("a.json", RECORD.encode(), "{}: a file of one object a line can be given by its name"),
        ("a.json", b"", "there is {}, which can be given by its name"),
        ("a.md", b"# Title\n", None),
    ],
)
def test_a_folder_without_jsonl_names_what_it_has(tmp_path, name, content, found):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        build(folder, tmp_path / "set", "zh")
    message = f"{folder}: no file below it ends in .jsonl, .jsonl.gz, .jsonl.zst"
    assert str(error.value).startswith(message)
    if found is None:
        assert str(error.value) == message
    else:
        assert found.format(folder / name) in str(error.value)


@pytest.mark.parametrize("name", ["mark.jsonl", "le.jsonl", "32.jsonl", "a.parquet", "a.xlsx", "packed.jsonl"])
def test_what_is_no_text_does_not_become_text(name):
    sink = io.BytesIO()
    with pytest.raises(UserError, match=r"^stdin: not plain text "):
        convert_text(io.BytesIO(ODD_FILES[name][0]), sink, "stdin")
    assert sink.getvalue() == b""


@pytest.mark.parametrize("name", ["array.json", "in one line.json", "pretty.jsonl", "joined.jsonl"])
def test_json_for_text_is_warned_of(name, capsys):
    sink = io.BytesIO()
    convert_text(io.BytesIO(ODD_FILES[name][0]), sink, "stdin")
    assert capsys.readouterr().err.startswith("warning: stdin: it looks like ")
    assert sink.getvalue()


def test_plain_text_is_not_warned_of(capsys):
    for text in ("One line.\n", "{ a brace }\n", "[1] A reference\n", "一行。\n"):
        convert_text(io.BytesIO(text.encode()), io.BytesIO(), "stdin")
    assert capsys.readouterr().err == ""
