"""What a record is: indexing, checking and reading agree on it, whatever the line."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fm9g.data.index.build import Options, build
from fm9g.data.index.check import check
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.index.scan import ScanRules, scan_block
from fm9g.data.record import MAX_DEPTH, NoText, parse_record, plain_text, quick_text, read_record
from fm9g.data.record_kinds import KINDS, recognise, unread_kind
from tests.support.builds import dump

RULES = ScanRules("en")


def nested(levels, space=b""):
    """A record of so many levels, itself counted, with white space before each bracket."""
    return b'{"output": "x", "a": ' + (space + b"[") * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize("neighbours", [[], [dump({"output": "a [ { in a text"})] * 9], ids=["alone", "among others"])
@pytest.mark.parametrize("space", [b"", b" ", b"\r", b"\t"])
@pytest.mark.parametrize("levels", [1, 2, MAX_DEPTH, MAX_DEPTH + 1, 500, 1000, 1100, 50_000])
def test_a_record_is_nested_so_deep_and_no_deeper(levels, space, neighbours):
    line = nested(levels, space) if levels > 1 else b'{"output": "x"}'
    scan = scan_block(b"".join([*neighbours, line + b"\n"]), RULES)
    assert [rejected.line for rejected in scan.rejected] == ([len(neighbours)] if levels > MAX_DEPTH else [])
    if levels > MAX_DEPTH:
        for read in (parse_record, read_record):
            with pytest.raises(ValueError, match="nested too deeply"):
                read(line)
    else:
        assert read_record(line) == parse_record(line) == json.loads(line)


def test_brackets_in_texts_are_no_levels():
    code = {"input": "[{" * 1000, "output": 'a = [{"b": [1, {' * 500, "x": [[1]] * 300}
    assert scan_block(dump(code) * 3, RULES).rejected == []
    assert read_record(dump(code)) == code


values = st.sampled_from(["", "text", "\n", 'a\\"b', "\ud800", None, 0, 1.5, True, [], ["a"], {}, {"output": "x"}])
# pairs of key and value, of which a key may repeat; some begin as text that was converted does
pairs = st.lists(st.tuples(st.sampled_from(["input", "output", "text", "id"]), values), max_size=4)
plain = st.builds(lambda text, more: [("input", ""), ("output", text), *more], values, pairs)
records = pairs | plain


def as_json(record, ascii_only, separators):
    """The pairs as one line of JSON."""
    comma, colon = separators
    words = [
        colon.join(json.dumps(part, ensure_ascii=ascii_only, separators=separators) for part in pair) for pair in record
    ]
    return f"{{{comma.join(words)}}}\n".encode("utf-8", "surrogatepass")


@given(
    st.lists(records, min_size=1, max_size=6), st.booleans(), st.sampled_from([(", ", ": "), (",", ":"), (" ,", " : ")])
)
@example([[("input", ""), ("output", "a text of some length"), ("output", None)]], True, (", ", ": "))
@example([[("input", ""), ("output", "a text of some length"), ("input", 3)], [("output", "b")]], True, (", ", ": "))
def test_what_is_counted_is_what_training_cannot_use(some, ascii_only, separators):
    lines = [as_json(record, ascii_only, separators) for record in some]
    scan = scan_block(b"".join(lines), RULES)
    wrong = {rejected.line for rejected in scan.rejected}
    kept = [line for number, line in enumerate(lines) if number not in wrong]
    without, empty = [], 0
    for number, line in enumerate(kept):
        try:
            texts = plain_text(read_record(line))
            assert quick_text(line) in (None, texts)
            empty += not any(texts)
        except NoText:
            assert quick_text(line) is None
            without.append(number)
    assert (scan.texts.without, scan.texts.empty) == (without, empty)


def test_check_finds_what_cannot_be_used(tmp_path):
    lines = [dump({"output": "x"}), b"[1]\n", b"\n", dump({"input": "q", "target": "t"}), dump({"output": None})]
    (tmp_path / "x.jsonl").write_bytes(b"".join(lines))
    build(tmp_path / "x.jsonl", tmp_path / "set", "en", Options(validate=False))
    report = check(tmp_path / "set")
    assert report.damaged_count == 0
    assert report.unusable() == [
        "2 line(s) are no records; the first: record 1 (line 2): not a JSON object but an array",
        '2 record(s) have no text to learn in "output" (the first is record 3 (line 4)): without a transform they are '
        "refused, or skipped with skip_unlearned",
    ]


def test_a_record_that_is_numbered_in_the_index_is_numbered_alike_in_meta(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"".join(dump({"output": i if i == 1500 else "x"}) for i in range(3000)))
    meta = build(tmp_path / "x.jsonl", tmp_path / "set", "en")
    assert (meta["records_without_text"], meta["first_record_without_text"]) == (1, 1501)
    assert IndexedDataset(tmp_path / "set").record(1500) == {"output": 1500}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(sorted(kind.fields)))
def test_records_of_a_usual_kind_are_known_by_their_fields(kind):
    record = dict.fromkeys(kind.fields, "text")
    assert recognise({**record, "id": 1, "system": ""}).name == kind.name
    assert unread_kind(record).advice == kind.advice
    assert unread_kind(dict.fromkeys(kind.fields, "")) is None


def test_other_fields_are_nothing_to_speak_of():
    assert unread_kind({"input": "q", "output": "a", "id": 7, "url": "x", "title": "t"}) is None
    assert unread_kind({"output": "a", "instruction": "do"}).format == "alpaca"
