"""Plain text to jsonl."""

import io
import json

from fm9g.data.prepare.plain_text import convert_text


def test_blank_lines_of_plain_text_are_told(capsys):
    sink = io.BytesIO()
    convert_text(io.BytesIO(b"one\n\n  two\r\n \n"), sink, "stdin")
    assert [json.loads(line)["output"] for line in sink.getvalue().splitlines()] == ["one", "two"]
    assert capsys.readouterr().err == "note: stdin: 2 of 4 lines are blank and left out\n"
