"""Users' transforms: what they get, and how their mistakes are reported."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm9g.data.record import NoText, parse_record, plain_text, quick_text
from fm9g.data.stream.transform import apply_transform, load_transform
from fm9g.errors import UserError


@pytest.fixture
def transform(tmp_path):
    """Writes the body of a transform and loads it."""

    def load(body):
        path = tmp_path / "clean.py"
        path.write_text(f"def transform(data, num_sample, r):\n    {body}\n")
        return load_transform(path)

    return load


def applied(function, data, seed=0):
    return apply_transform(function, data, random.Random(seed))


def refused(function, data):
    with pytest.raises(NoText) as error:
        applied(function, data)
    return str(error.value)


def test_without_a_transform_input_and_output_are_taken():
    assert plain_text({"input": "q", "output": "a", "source": "x"}) == ("q", "a")


@pytest.mark.parametrize(("data", "text"), [({"output": "a"}, ("", "a")), ({"input": ""}, ("", ""))])
def test_a_missing_field_is_empty(data, text):
    assert plain_text(data) == text


fields = st.dictionaries(st.sampled_from(["input", "output", "x"]), st.text() | st.none() | st.integers(), max_size=3)


@given(fields, st.booleans())
def test_the_quick_way_finds_what_the_plain_one_does_or_leaves_it_to_it(record, ascii_only):
    raw = json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = quick_text(raw)
    assert found is None or found == plain_text(parse_record(raw))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"input": "q", "output": "a", "x": [{"output": 1}]}', ("q", "a")),
        ('{"output": "a"}', ("", "a")),
        ('{"output": "a", "output": "b"}', ("", "b")),
        (r'{"output": "\u00e9\n"}', ("", "é\n")),
        ('{"input": "q"}', None),
        ('{"output": 1}', None),
        ('{"output": "a"', None),
        ('["output"]', None),
        ('{"output": "a", "x": NaN}', None),
    ],
)
def test_lines_that_the_quick_way_takes(line, found):
    assert quick_text(line.encode()) == found


def test_a_transform_makes_text_of_any_record(transform):
    function = transform('return {"input": data["q"].strip(), "output": data["a"] * num_sample}')
    assert applied(function, {"q": " why ", "a": "so"}) == ("why", "so")


def test_a_transform_file_may_be_like_any_module(tmp_path):
    (tmp_path / "t.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Turn:\n    text: str\n"
        'def transform(data, num_sample, r):\n    return {"input": "", "output": Turn(data["a"]).text}\n'
    )
    assert apply_transform(load_transform(tmp_path / "t.py"), {"a": "b"}, random.Random(0)) == ("", "b")


def test_a_transform_draws_from_the_generator_it_is_given(transform):
    function = transform('return {"input": "", "output": str(r.random())}')
    assert applied(function, {}, seed=1) == applied(function, {}, seed=1)
    assert applied(function, {}, seed=1) != applied(function, {}, seed=2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('return data["nothing"]', "the transform raised KeyError: 'nothing'"),
        ("raise SystemExit(3)", "the transform raised SystemExit: 3"),
        ("raise ValueError('odd record')", "the transform raised ValueError: odd record"),
        ("return None", 'the transform must return {"input": ..., "output": ...}, not None'),
        ('return {"output": "x"}', "the transform must return"),
        ('return [{"input": "", "output": "x"}]', "the transform must return"),
        ('return {"input": "", "output": 5}', "output must be a string, not 5"),
        ('return {"input": None, "output": "x"}', "input must be a string, not None"),
        ('return "x" * 500', "xxx…"),
    ],
)
def test_what_a_transform_does_wrong_is_said(transform, body, says):
    message = refused(transform(body), {"text": "x"})
    assert says in message
    assert len(message) < 250


def test_a_record_without_text_is_named_with_its_fields():
    with pytest.raises(NoText, match=r"no text to learn in \"output\" \(its fields: 'Question', 'Response'\)"):
        plain_text({"Question": "q", "Response": "a"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "clean.py: no such transform file"),
        ("def transform(data", "cannot be imported: SyntaxError"),
        ("import sys; sys.exit()", "cannot be imported: SystemExit"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("def transforms(data, n, r): ...", "has no function transform(data, num_sample, r)"),
        ("transform = 5", "has no function transform(data, num_sample, r)"),
    ],
)
def test_a_file_that_is_no_transform_is_refused(tmp_path, content, says):
    path = tmp_path / "clean.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        load_transform(path)
    assert str(error.value).startswith(str(path))
    assert says in str(error.value)
