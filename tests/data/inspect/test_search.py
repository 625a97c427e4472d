"""Searching a dataset for text."""

import json

import pytest

from fm9g.data.index.build import Options, build
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect.search import search
from fm9g.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    def make(*lines):
        (tmp_path / "a.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        build(tmp_path / "a.jsonl", tmp_path / "set", "zh", Options(overwrite=True))
        return IndexedDataset(tmp_path / "set")

    return make


def records(dataset, text):
    return [hit.record for hit in search(dataset, text)]


def test_where_and_what_is_around(dataset):
    made = dataset('{"output": "nothing"}', '{"input": "一二三四五", "output": "三 … 三"}')
    hits = list(search(made, "三", context=1))
    assert [(hit.record, hit.field, hit.count, hit.place, hit.length) for hit in hits] == [
        (1, "input", 1, 2, 5),
        (1, "output", 2, 0, 5),
    ]
    assert [(hit.before, hit.after) for hit in hits] == [("二", "四"), ("", " ")]
    assert records(made, "NOTHING") == []


def test_text_is_found_however_json_spells_it(dataset):
    text = '月 "quoted" a/b\\c\nend'
    plain, escaped = json.dumps({"output": text}, ensure_ascii=False), json.dumps({"output": text})
    odd = '{"output": "\\u6708 \\u0022quoted\\u0022 \\u0061\\/b\\\\c\\u000aend"}'
    made = dataset(plain, escaped, odd, '{"output": "other"}')
    for part in ("月", '"quoted"', "a/b", "b\\c", "c\nend", text):
        assert records(made, part) == [0, 1, 2], part
    assert records(made, "\\n") == []  # a newline is not the two characters that spell it
    assert records(made, "\\u6708") == []


def test_keys_and_punctuation_are_not_text(dataset):
    made = dataset('{"output": "a", "n": 12}', '{"x": "output"}')
    assert records(made, "output") == [1]
    assert records(made, '": "') == records(made, "12") == []


def test_every_depth(dataset):
    deep = "[" * 199 + '"月"' + "]" * 199
    made = dataset('{"m": [{"role": "user", "text": "x"}, {"text": ["a", "月光"]}]}', f'{{"d": {deep}}}')
    hits = list(search(made, "月"))
    assert [hit.field for hit in hits] == ["m[1].text[1]", "d" + "[0]" * 199]


def test_more_than_a_block(dataset):
    lines = [json.dumps({"output": f"{i} " + "x" * 5000}) for i in range(1000)]
    for i in (0, 500, 999):
        lines[i] = json.dumps({"output": f"{i} needle " + "x" * 5000})
    made, seen = dataset(*lines), []
    assert [hit.record for hit in search(made, "needle", lambda done, total: seen.append((done, total)))] == [
        0,
        500,
        999,
    ]
    assert len(seen) > 2
    assert seen[-1] == (made.nbytes, made.nbytes)


def test_odd_records(dataset):
    made = dataset('{"output": "half \\ud83d pair"}', '{"output": "\\u0000 zero"}', "{}")
    assert records(made, "pair") == [0]
    assert records(made, "\x00") == [1]
    with pytest.raises(UserError, match="empty"):
        list(search(made, ""))
    with pytest.raises(UserError, match="UTF-8"):
        list(search(made, "\udcff"))
