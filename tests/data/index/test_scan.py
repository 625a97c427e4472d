"""What scanning a block finds, against the standard library line by line."""

import json

import google_crc32c
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fm9g.data.index.offsets_text import offsets_text
from fm9g.data.index.scan import ScanRules, scan_block

RULES = ScanRules("en")
pieces = st.sampled_from(['{"a":1}', '{"a":[{}', "{}]}", '{"a":"x}', '{y"}', "},{", '"},[":1', "{}", ",", "]", '"'])
lines = st.lists(pieces, max_size=3).map(lambda parts: "{" + "".join(parts) + "}") | pieces


def is_object(line):
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


@settings(max_examples=500, deadline=None)
@given(st.lists(lines, min_size=1, max_size=6))
@example(['{"a":"x}', '{y"}', "{},{}"])  # as many objects as lines, if the ends of lines were commas
@example(['{"a":[{}', "{}]}", "{},{}"])
@example(['{"a":"}', '{"},[":1}', "{},{}"])
@example(['{"a":"x} y"}', '{"b":1}'])
def test_lines_that_share_or_divide_objects_are_rejected(block):
    scan = scan_block("".join(line + "\n" for line in block).encode(), RULES)
    assert [rejected.line for rejected in scan.rejected] == [n for n, line in enumerate(block) if not is_object(line)]


@given(st.lists(st.integers(0, 10**13), max_size=50) | st.lists(st.integers(10**9, 10**9 + 10**6), max_size=50))
@example([9_999, 10_000])
@example([99_999, 100_000])
@example([10_000, 99_999_999])
def test_offsets_text(offsets):
    assert offsets_text(np.array(offsets, dtype=np.int64)) == "".join(f"{offset}\n" for offset in offsets).encode()


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("size", [10, 70_000])
def test_units_of_long_lines(language, size):
    """Counts do not wrap around, however they are summed."""
    text = '{"output": "' + "詩 " * size + '"}\n'
    short = '{"output": "詩 詩"}\n'
    scan = scan_block((text + short + text).encode(), ScanRules(language))
    units, more = (len(some) if language == "zh" else len(some.split(" ")) for some in (text, short))
    assert scan.units == 2 * units + more
    assert scan.long_units.tolist() == ([units] * 2 if size > 10 else [])


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"\r")), min_size=1))
def test_checksums_are_those_of_lines_without_their_newlines(lines):
    scan = scan_block(b"".join(line + b"\n" for line in lines), ScanRules("en", validate=False))
    assert scan.checksums.tolist() == [google_crc32c.value(line) for line in lines]
