"""Scores of predictions, beside what is known of them."""

from __future__ import annotations

import sys

import pytest

from fm9g.serve.scores import scores


def test_what_is_equal_has_the_best_scores() -> None:
    texts = ["the cat sat on the mat today", "今天天气很好啊"]
    assert scores([f" {text}\n" for text in texts], texts) == {
        "exact_match": 1.0, "bleu": 100.0, "rouge-1": 1.0, "rouge-2": 1.0, "rouge-l": 1.0,
    }  # fmt: skip


def test_short_texts_that_are_equal_have_them_too() -> None:
    assert scores(["fish fish", "是"], ["fish fish", "是"])["bleu"] == 100.0


def test_chinese_counts_by_characters() -> None:
    """今天天气 is in both: bigrams 3 of 5, a sequence of 4 of 6, and of the 5 different characters of each 3."""
    found = scores(["今天天气坏了"], ["今天天气很好"])
    assert found["exact_match"] == 0
    assert found["rouge-1"] == pytest.approx(3 / 5, abs=1e-4)
    assert found["rouge-2"] == pytest.approx(3 / 5, abs=1e-4)
    assert found["rouge-l"] == pytest.approx(4 / 6, abs=1e-4)


def test_nothing_said_is_worth_nothing() -> None:
    assert set(scores(["", ""], ["a b", "c"]).values()) == {0.0}
    assert scores(["", "c"], ["a b", "c"])["rouge-1"] == 0.5


def test_without_the_packages_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert scores(["a", "b"], ["a", "c"]) == {"exact_match": 0.5}
    assert "pip install sacrebleu rouge-chinese" in capsys.readouterr().err
