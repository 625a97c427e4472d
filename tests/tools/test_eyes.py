"""tools/inspect_index.py and tools/preview_mixture.py, run as users run them, from another folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fm9g.training.settings import Settings
from tests.support.places import Place, index

TOOLS = Path(__file__).resolve().parents[2] / "tools"
POEMS = ["床前明月光\n疑是地上霜", "春眠不覺曉\x1b[31m", "白日依山盡 " + "長" * 3000, "last"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place.make(tmp_path_factory.mktemp("place"))


@pytest.fixture
def run(tmp_path):
    def run(tool, *arguments, status=0, **variables):
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "NO_COLOR")}
        command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, cwd=tmp_path, env={**environment, **variables}, timeout=120, encoding="utf-8"
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


@pytest.fixture
def inspect(run, tmp_path):
    index(tmp_path / "set", [{"input": "", "output": text, "n": [1, "月"]} for text in POEMS])
    return lambda *arguments, **options: run("inspect_index.py", "set", *arguments, **options)


def test_help_explains_every_flag(run):
    for tool, needed in (
        ("inspect_index.py", ["x"]),
        ("preview_mixture.py", ["--dataset-config=x", "--tokenizer-path=x"]),
    ):
        shown = run(tool, "--help")
        for flag in re.findall(r"^  (--[\w-]+)", shown, re.MULTILINE):
            assert re.search(rf"^  {flag}(?: [A-Z]+)*(?: \[.*\])?(?: \{{.*\}})?\s+\w+", shown, re.MULTILINE), flag
        assert "--nonsense" in run(tool, *needed, "--nonsense", status=2)


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


def test_inspect_where_there_is_no_dataset(run, inspect):
    assert run("inspect_index.py", "absent", status=1).startswith("error: ")
    # a terminal that cannot show Chinese gets escapes, and no traceback
    assert "\\u5e8a\\u524d" in inspect("--show", 0, PYTHONIOENCODING="ascii")


def preview(run, place, *arguments, **options):
    words = ("--dataset_config", place.mixture, "--tokenizer-path", place.tokenizer, "--max_length", 64)
    return run("preview_mixture.py", *words, *arguments, **options)


def test_preview_shows_rows_and_shares(run, place):
    shown = preview(run, place, "--steps", 2, "--batch_size", 2, "--grad-accum", 2, "--ranks", 2)
    assert len(re.findall(r"^step \d, row \d \(rank \d, micro-step \d\): \d+ of 64 places filled", shown, re.M)) == 16
    assert re.search(r"^  1\. \w+, record \d+, tokens 0-\d+ of \d+ \(.*\), \d+ with loss\n     ⟦‹BOS›", shown, re.M)
    assert re.search(r"⟦‹BOS›\d+: \d+ plus \d+\?⟧\d+‹EOS›\n", shown)
    assert "2 steps, 16 rows, 1,024 places: " in shown
    assert re.search(r"^ +30\.0% +[\d.]+% .* questions$", shown, re.M)
    assert "\x1b" not in shown

    short = preview(run, place, "--steps", 2, "--batch_size", 2, "--grad-accum", 2, "--ranks", 2, "--rows", 0)
    assert short == shown[shown.index("2 steps, 16 rows") :]
    assert preview(run, place, "--seed", 7) != preview(run, place, "--seed", 8)


def test_preview_in_colours(run, place):
    plain = preview(run, place)
    colored = preview(run, place, "--color", "always", NO_COLOR="1")
    assert "\x1b[2;36m‹BOS›" in colored
    assert "⟦" not in colored
    assert preview(run, place, "--color=never") == plain


def test_preview_has_the_defaults_of_a_run(run):
    shown = run("preview_mixture.py", "--help")
    for name in ("max_length", "batch_size", "grad_accum", "seed"):
        assert re.search(rf"--{name.replace('_', '-')} N\s[^(]*\({getattr(Settings(), name)}\)", shown), name


def test_preview_of_what_cannot_be_read(run, place, tmp_path):
    for name in ("max_length", "ranks"):
        assert preview(run, place, f"--{name}", 0, status=1) == f"error: {name} must be at least 1, not 0\n"
    assert preview(run, place, "--seed", -1, status=1).startswith("error: seed must be from 0")
    assert "no such tokenizer" in preview(run, place, "--tokenizer_path", "absent", status=1)
    assert "absent" in preview(run, place, "--dataset_config", "absent", status=1)
    index(tmp_path / "plain", [{"text": "x"}])
    mixture = Place(tmp_path).write_mixture("m", [{"path": "plain", "abs_weight": 1}])
    assert "no text to learn in" in preview(run, place, "--dataset_config", mixture, status=1)
