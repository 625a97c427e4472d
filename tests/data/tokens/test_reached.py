"""Merges that are added after a vocabulary's own."""

from __future__ import annotations

import random

import pytest
import tokenizers

from fm9g.data.tokens.reached import Merges, joined, pair

LETTERS = list("abcdef")


def merges(*pieces: str) -> Merges:
    """Of letters and these pieces, which sentencepiece would merge in this order."""
    return Merges({piece: rank for rank, piece in enumerate(pieces)}, [*LETTERS, *pieces], joined)


def test_a_piece_of_two_tokens_is_reached_whatever_the_domain_merged_it_from() -> None:
    assert merges("ab", "cd").add(["bc", "abc", "abcd"]) == {"bc": ["b", "c"], "abc": ["ab", "c"], "abcd": ["ab", "cd"]}


def test_a_piece_of_three_tokens_is_reached_through_another_new_one_or_a_step() -> None:
    assert merges("ab", "cd").add(["abcde"]) == {"abcd": ["ab", "cd"], "abcde": ["abcd", "e"]}
    assert list(merges("ab", "cd").add(["abcde", "abcd"])) == ["abcd", "abcde"]
    assert list(merges("ab", "cd").add(["abcde", "cde"])) == ["cde", "abcde"]
    assert list(merges("ab", "cd").add(["bcde", "fbcde"])) == ["bcd", "bcde", "fbcde"]
    assert list(merges("ab", "cd").add(["fbcde", "bcde"])) == ["fb", "fbcd", "fbcde", "bcd", "bcde"]
    assert merges("ab").add(["bx", "x", "bxa"]) == {"x": ["x"], "bx": ["b", "x"], "bxa": ["bx", "a"]}
    assert merges("ab").add(["bx", "abx", "cdx"]) == {}  # there is no x


def test_a_token_that_no_text_gave_is_no_step() -> None:
    """A special token, say, which would be found in texts from then on."""
    assert Merges({}, [*LETTERS, "ab"], joined).add(["abc"]) == {}
    assert list(Merges({}, [*LETTERS, "ab"], joined).add(["abc", "bc"])) == ["bc", "abc"]


@pytest.mark.parametrize("seed", range(30))
def test_the_tokenizers_library_cuts_the_same(seed: int) -> None:
    """Before and after; and each new cut joins tokens of the old one."""
    chance = random.Random(seed)
    vocab, pairs = list(LETTERS), []
    for _ in range(12):
        left, right = chance.choices(vocab, k=2)
        if left + right not in vocab and len(left + right) < 9:
            pairs.append((left, right))
            vocab.append(left + right)
    mine = Merges({two: float(rank) for rank, two in enumerate(pairs)}, vocab, pair)
    texts = ["".join(chance.choices(LETTERS, k=chance.randrange(1, 30))) for _ in range(60)]
    before = [mine.cut(text) for text in texts]
    assert before == [library(vocab, pairs, text) for text in texts]
    wanted = {"".join(chance.choices(LETTERS, k=chance.randrange(2, 6))) for _ in range(40)} - set(vocab)
    made = mine.add(sorted(wanted))
    vocab, pairs = [*vocab, *made], [*pairs, *((left, right) for left, right in made.values())]
    after = [mine.cut(text) for text in texts]
    assert after == [library(vocab, pairs, text) for text in texts]
    assert all(library(vocab, pairs, piece) == [piece] for piece in made)
    for old, new in zip(before, after, strict=True):
        assert ends(new) <= ends(old)
    assert before != after


def library(vocab: list[str], pairs: list[tuple[str, str]], text: str) -> list[str]:
    model = tokenizers.models.BPE({piece: id for id, piece in enumerate(vocab)}, pairs)
    return [token.value for token in model.tokenize(text)]


def ends(parts: list[str]) -> set[int]:
    return {sum(map(len, parts[: n + 1])) for n in range(len(parts))}
