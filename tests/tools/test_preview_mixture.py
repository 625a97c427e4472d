"""tools/preview_mixture.py, run as users run it, from another folder."""

import re

from fm9g.training.settings import Settings
from tests.support.places import Place, index


def preview(shown_by, place, *arguments, **options):
    words = ("--dataset_config", place.mixture, "--tokenizer-path", place.tokenizer, "--max_length", 64)
    return shown_by("preview_mixture.py", *words, *arguments, **options)


def test_help_explains_every_flag(shown_by):
    shown = shown_by("preview_mixture.py", "--help")
    for flag in re.findall(r"^  (--[\w-]+)", shown, re.MULTILINE):
        assert re.search(rf"^  {flag}(?: [A-Z]+)*(?: \[.*\])?(?: \{{.*\}})?\s+\w+", shown, re.MULTILINE), flag
    assert "--nonsense" in shown_by(
        "preview_mixture.py", "--dataset-config=x", "--tokenizer-path=x", "--nonsense", status=2
    )


def test_preview_shows_rows_and_shares(shown_by, place):
    shown = preview(shown_by, place, "--steps", 2, "--batch_size", 2, "--grad-accum", 2, "--ranks", 2)
    assert len(re.findall(r"^step \d, row \d \(rank \d, micro-step \d\): \d+ of 64 places filled", shown, re.M)) == 16
    assert re.search(r"^  1\. \w+, record \d+, tokens 0-\d+ of \d+ \(.*\), \d+ with loss\n     ⟦‹BOS›", shown, re.M)
    assert re.search(r"⟦‹BOS›\d+: \d+ plus \d+\?⟧\d+‹EOS›\n", shown)
    assert "2 steps, 16 rows, 1,024 places: " in shown
    assert re.search(r"^ +30\.0% +[\d.]+% .* questions$", shown, re.M)
    assert "\x1b" not in shown

    short = preview(shown_by, place, "--steps", 2, "--batch_size", 2, "--grad-accum", 2, "--ranks", 2, "--rows", 0)
    assert short == shown[shown.index("2 steps, 16 rows") :]
    assert preview(shown_by, place, "--seed", 7) != preview(shown_by, place, "--seed", 8)


def test_preview_in_colours(shown_by, place):
    plain = preview(shown_by, place)
    colored = preview(shown_by, place, "--color", "always", NO_COLOR="1")
    assert "\x1b[2;36m‹BOS›" in colored
    assert "⟦" not in colored
    assert preview(shown_by, place, "--color=never") == plain


def test_preview_has_the_defaults_of_a_run(shown_by):
    shown = shown_by("preview_mixture.py", "--help")
    for name in ("max_length", "batch_size", "grad_accum", "seed"):
        assert re.search(rf"--{name.replace('_', '-')} N\s[^(]*\({getattr(Settings(), name)}\)", shown), name


def test_preview_of_what_cannot_be_read(shown_by, place, tmp_path):
    for name in ("max_length", "ranks"):
        assert preview(shown_by, place, f"--{name}", 0, status=1) == f"error: {name} must be at least 1, not 0\n"
    assert preview(shown_by, place, "--seed", -1, status=1).startswith("error: seed must be from 0")
    assert "no such tokenizer" in preview(shown_by, place, "--tokenizer_path", "absent", status=1)
    assert "absent" in preview(shown_by, place, "--dataset_config", "absent", status=1)
    index(tmp_path / "plain", [{"text": "x"}])
    mixture = Place(tmp_path).write_mixture("m", [{"path": "plain", "abs_weight": 1}])
    assert "no text to learn in" in preview(shown_by, place, "--dataset_config", mixture, status=1)


def test_preview_counts_what_is_left_out(shown_by, place, tmp_path):
    good = {"prompt": "a", "completion": "b"}
    index(tmp_path / "chat", [good, {"prompt": "a", "completion": ""}, good, {"conversations": []}] * 5)
    entry = {"path": "chat", "abs_weight": 1, "format": "chat", "template": "belle", "task_name": "chat"}
    mixture = Place(tmp_path).write_mixture("m", [entry | {"allow_repeat": False}])
    shown = preview(shown_by, place, "--dataset_config", mixture, "--steps", 40, "--rows", 0)
    assert re.search(r"^chat: 10 records left out, the first is record \d+ .*: ", shown, re.M)
