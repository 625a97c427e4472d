"""Text that comes token by token is the text of all tokens, and nothing of it is taken back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer
from fm9g.serve.decoding import Decoding
from tests.support.tiny_tokenizers import KINDS, with_tokens

TEXT = "Rows of 月光, and 😀😀 — then “more” words.\n\n  Two  blanks; naïve café " * 9


@pytest.fixture(params=["byte-level bpe", "sentencepiece bpe of bytes"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    folder = tmp_path / "tokenizer"
    made = with_tokens(folder, [], [TEXT]) if request.param == "byte-level bpe" else KINDS[request.param](folder)
    return load_tokenizer(made)


def told(decoding: Decoding, ids: list[int]) -> list[str]:
    return [decoding.add(id) for id in ids] + [decoding.end()]


def test_all_text_is_told(tokenizer: Tokenizer) -> None:
    before, after = tokenizer.encode("A prompt: "), tokenizer.encode(TEXT)
    pieces = told(Decoding(tokenizer, before), after)
    assert "".join(pieces) == tokenizer.decode(before + after).removeprefix(tokenizer.decode(before))
    assert "\ufffd" not in "".join(pieces)
    assert sum(map(bool, pieces)) > len(after) / 3


def test_an_answer_has_no_white_space_at_its_ends(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("  \n an answer\n\nof two parts \n ")
    assert "".join(told(Decoding(tokenizer, tokenizer.encode("?"), trim=True), ids)) == tokenizer.decode(ids).strip()
    assert told(Decoding(tokenizer, tokenizer.encode("?"), trim=True), tokenizer.encode(" \n "))[-1] == ""


@pytest.mark.parametrize("stop", ["words", "“m", " then", "e"])
def test_nothing_of_a_stop_is_told(tokenizer: Tokenizer, stop: str) -> None:
    before = tokenizer.encode("x")
    decoding = Decoding(tokenizer, before, ("never there", stop))
    pieces = told(decoding, tokenizer.encode(TEXT))
    assert "".join(pieces).strip() == TEXT[: TEXT.index(stop)].strip()
    assert decoding.stopped


def test_what_may_become_a_stop_is_told_in_the_end(tokenizer: Tokenizer) -> None:
    decoding = Decoding(tokenizer, tokenizer.encode("x"), ("words that are not there",))
    assert "".join(told(decoding, tokenizer.encode("Some words"))).strip() == "Some words"
    assert not decoding.stopped


def test_a_character_that_is_never_whole_is_told_as_such(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(KINDS["sentencepiece bpe of bytes"](tmp_path / "tokenizer"))
    ids = tokenizer.encode("😀")
    assert len(ids) > 3
    assert "\ufffd" in "".join(told(Decoding(tokenizer, []), ids[:-1]))


def test_a_text_may_hold_what_stands_for_half_a_character(tokenizer: Tokenizer) -> None:
    """U+FFFD of a text is no sign that more of a character is to come, wherever the window of tokens ends."""
    before, chance = tokenizer.encode("A prompt: "), random.Random(1)
    for _ in range(60):
        text = "".join(chance.choice(["\ufffd", "😀", "👨\u200d👩", "月光", "é", " a", "\n"]) for _ in range(60))
        ids = tokenizer.encode(text)
        whole = tokenizer.decode(before + ids).removeprefix(tokenizer.decode(before))
        assert "".join(told(Decoding(tokenizer, before), ids)) == whole
