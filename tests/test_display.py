"""Text of unknown content on a terminal."""

import io

import pytest

from fm9g.display import Span, bars, cut_middle, list_lines, printable, shorten, wants_color
from fm9g.errors import UserError


def test_what_can_be_seen_stays():
    for text in ("", "床前明月光，疑是地上霜。", "字\u3000詞", "\U00020000\U0003134f", "naïve café", "🌙"):
        assert printable(text) == text


def test_what_a_terminal_would_act_on_is_spelled_out():
    assert printable("a\nb\tc\x1b[31m\x00") == "a\\nb\\tc\\x1b[31m\\x00"
    assert printable("\u202eabc\u200b\u00a0\ud83d") == "\\u202eabc\\u200b\\xa0\\ud83d"
    assert printable("a\\nb") == "a\\\\nb"  # not what a newline gives
    assert printable("a\\nb\n", backslash=False) == "a\\nb\\n"


def test_long_text_is_cut_in_the_middle_and_says_how_much():
    assert shorten("0123456789", 10) == "0123456789"
    assert shorten("0123456789", 4) == "01 [… 6 characters …] 89"
    assert shorten("月" * 2000, None) == "月" * 2000
    assert shorten("\n" * 3000 + "end", 5) == "\\n\\n\\n [… 2,998 characters …] nd"


def test_a_cut_keeps_the_styles_on_both_sides():
    spans = [Span("aaaa", "dim"), Span("bbbb"), Span("cc", "dim")]
    found = cut_middle(spans, 6)
    assert found == [Span("aaa", "dim"), Span("… 4 characters …", "mark"), Span("b"), Span("cc", "dim")]
    assert cut_middle(spans, 10) == cut_middle(spans, None) == spans


def test_bars():
    lines = bars([("a", 1_000_000), ("long", 1), ("c", 0)])
    assert lines[0] == "   a  1,000,000  100.0%  " + "#" * 40
    assert lines[1] == "long          1    0.0%  #"
    assert lines[2] == "   c          0    0.0%"
    assert bars([]) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_only_where_they_are_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_color("auto", Terminal())
    assert not wants_color("auto", io.StringIO())
    assert not wants_color("never", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color("auto", Terminal())
    assert wants_color("always", io.StringIO())  # what was asked for here and now
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_color("auto", Terminal())
    with pytest.raises(UserError, match="auto, always, never"):
        wants_color("blue", Terminal())


def test_a_list_is_broken_between_its_items_by_the_columns_that_a_terminal_takes():
    assert list_lines("file", ["a 1", "b 2"], width=12) == ["file: a 1,", "  b 2"]
    assert list_lines("file", ["a 1", "b 2"], width=14) == ["file: a 1, b 2"]
    assert list_lines("数据", ["名 一", "b 2"], width=14) == ["数据: 名 一,", "  b 2"]
    assert list_lines("file", ["a word wider than the line"], width=12) == ["file:", "  a word wider than the line"]
