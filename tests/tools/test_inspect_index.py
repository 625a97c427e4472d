"""tools/inspect_index.py, run as users run it, from another folder."""

import re

import pytest

from tests.support.places import index

POEMS = ["床前明月光\n疑是地上霜", "春眠不覺曉\x1b[31m", "白日依山盡 " + "長" * 3000, "last"]


@pytest.fixture
def inspect(shown_by, tmp_path):
    index(tmp_path / "set", [{"input": "", "output": text, "n": [1, "月"]} for text in POEMS])
    return lambda *arguments, **options: shown_by("inspect_index.py", "set", *arguments, **options)


def test_help_explains_every_flag(shown_by):
    shown = shown_by("inspect_index.py", "--help")
    for flag in re.findall(r"^  (--[\w-]+)", shown, re.MULTILINE):
        assert re.search(rf"^  {flag}(?: [A-Z]+)*(?: \[.*\])?(?: \{{.*\}})?\s+\w+", shown, re.MULTILINE), flag
    assert "--nonsense" in shown_by("inspect_index.py", "x", "--nonsense", status=2)


def test_inspect_counts_and_lengths(inspect):
    shown = inspect()
    assert re.search(r"records +4\n", shown)
    assert re.search(r"language +en\n", shown)
    assert re.search(r"\n +8K-16K +1 +25\.0%  #+\n", shown)
    assert re.search(r"\n +less_4k +4 +100\.0%  #{40}\n", shown)
    assert re.search(r"avg_token_per_line +\d[\d.]{0,5}\n", shown)


def test_inspect_shows_records_safely(inspect):
    shown = inspect("--show", 0, 1, -1, "-2", "--width", 20)
    assert shown.startswith("record 0 (line 1, bytes 0-")  # nothing else was asked for
    assert "  output: 床前明月光\\n疑是地上霜\n" in shown
    assert '  n: [1, "月"]\n' in shown
    assert "春眠不覺曉\\x1b[31m" in shown
    assert "\x1b" not in shown
    assert "record 3 (line 4" in shown
    assert "  output: (3,006 characters) 白日依山盡 長長長長 [… 2,986 characters …] " + "長" * 10 + "\n" in shown
    assert "長" * 3000 in inspect("--show", 2, "--width=0")
    assert "record 4: " in inspect("--show", 4, status=1)
    assert "has records 0 to 3 (-1 is the last)" in inspect("--show", -5, status=1)


def test_inspect_searches(inspect):
    shown = inspect("--search", "月光\n疑")
    assert "record 0, output, character 3: 床前明>>月光\\n疑<<是地上霜\n" in shown
    assert "1 found in 4 records" in shown
    assert "  nothing found in 4 records\n" in inspect("--search", "absent")
    shown = inspect("--search", "月", "--limit", 2)
    assert shown.count("\n  record ") == 2
    assert "2 found, and then it stopped: --limit 0 finds all" in shown
    assert "5 found in 4 records" in inspect("--search", "月", "--limit", 0)
    assert inspect("--search", "", status=1) == "error: the text to search for is empty\n"
    assert inspect("--limit", "-1", status=1) == "error: limit must not be negative, not -1\n"


def test_inspect_counts_tokens(inspect, place):
    shown = inspect("--tokenizer", place.tokenizer)
    assert "tokens (all 4 records;" in shown
    shown = inspect("--tokenizer", place.tokenizer, "--sample", 3)
    assert "tokens (3 of 4 records, evenly spread;" in shown
    assert re.search(r"a record +[\d,.]+ ± [\d,.]+ \(standard error\)", shown)
    assert re.search(r"meta\.json +estimates [\d,.]+ a record: [\d.,]+% too (many|few)", shown)
    assert "no such tokenizer" in inspect("--tokenizer", "absent", status=1)


def test_inspect_draws_only_with_matplotlib(inspect, tmp_path):
    (tmp_path / "none/matplotlib").mkdir(parents=True)
    (tmp_path / "none/matplotlib/__init__.py").write_text("raise ImportError('not here')")
    error = inspect("--png", "a.png", status=1, PYTHONPATH=str(tmp_path / "none"))
    assert error.startswith("error: a PNG needs matplotlib")
    assert "pip install matplotlib" in error
    assert error.count("\n") == 1
    assert "a.png: written" in inspect("--png", "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_inspect_where_there_is_no_dataset(shown_by, inspect):
    assert shown_by("inspect_index.py", "absent", status=1).startswith("error: ")
    # a terminal that cannot show Chinese gets escapes, and no traceback
    assert "\\u5e8a\\u524d" in inspect("--show", 0, PYTHONIOENCODING="ascii")
