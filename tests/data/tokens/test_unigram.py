"""Unigram models of sentencepiece: the ids are those of exact sums, whatever the text's length."""

import itertools
import random
import struct
from fractions import Fraction

import pytest
import sentencepiece

from fm9g.data.tokens.sentencepiece_proto import NORMAL, read_sentencepiece
from fm9g.data.tokens.tokenizer import load_tokenizer

WORDS = [
    "the",
    "quick,",
    "brown",
    "fox",
    "=",
    "jumps",
    "--",
    "hmm",
    "over",
    "lazy",
    "dog.",
    "床前明月光，",
    "疑是地上霜。",
]
REPEATS = {"==": -5.123, "====": -6.789, "=====": -9.871, "---": -4.987, "mm": -5.4321, "霜霜": -6.1}


def train(folder, **options):
    chance = random.Random(0)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(chance.choices(WORDS, k=12)) for _ in range(400)), vocab_size=400,
        model_prefix=str(folder / "tokenizer"), hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    path = folder / "tokenizer.model"
    with open(path, "ab") as file:  # repeated fields of a protobuf go on, wherever they stand
        for text, score in REPEATS.items():
            piece = b"\x0a" + bytes([len(text.encode())]) + text.encode() + b"\x15" + struct.pack("<f", score)
            file.write(b"\x0a" + bytes([len(piece)]) + piece)
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return train(tmp_path_factory.mktemp("unigram"))


def best_cut(model, text):
    """Viterbi's algorithm with exact sums: of equal cuts, the one whose last piece is the longest."""
    scores = {piece.text: (Fraction(piece.score), id) for id, piece in enumerate(model.pieces) if piece.kind == NORMAL}
    unknown = min(score for score, _ in scores.values()) - 10
    longest = max(map(len, scores))
    best = [(Fraction(0), 0, None)]  # for each end: the sum, where its last piece begins, and that piece's id
    for end in range(1, len(text) + 1):
        starts = {start: scores.get(text[start:end]) for start in range(max(0, end - longest), end)}
        if starts[end - 1] is None:
            starts[end - 1] = (unknown, 0)
        found = [(best[start][0] + piece[0], start, piece[1]) for start, piece in starts.items() if piece]
        best.append(max(found, key=lambda cut: (cut[0], -cut[1])))  # type: ignore[arg-type]
    ids, end = [], len(text)
    while end:
        ids.append(best[end][2])
        end = best[end][1]
    # a run of unknown characters is one token
    return [id for key, run in itertools.groupby(reversed(ids)) for id in ([0] if key == 0 else run)]


def texts(words, count, seed):
    chance = random.Random(seed)
    return ["".join(chance.choices(words, k=count)) for _ in range(6)]


@pytest.mark.parametrize("options", [{}, {"split_by_whitespace": False}, {"normalization_rule_name": "identity"}])
def test_ids_are_those_of_the_best_cut(tmp_path, options):
    path = train(tmp_path, **options)
    tokenizer, model = load_tokenizer(path), read_sentencepiece(path)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    spaced = [f"{word} " for word in WORDS]
    some = texts(["=", "===", "m", "-", "-----", "霜"], 40, 1) + texts(
        [*spaced, "=", "m", "é", "ＡＢ", "\n", "  "], 3000, 2
    )
    assert [tokenizer.encode(text) for text in some] == [best_cut(model, pieces.normalize(text)) for text in some]
    assert [pieces.encode(text) for text in some] != tokenizer.encode_all(some), "sentencepiece is exact by itself"


@pytest.mark.parametrize("options", [{"byte_fallback": True}, {"user_defined_symbols": ["\t", "fox =", "。"]}])
def test_a_long_text_is_that_of_its_words(tmp_path, options):
    path = train(tmp_path, **options)
    tokenizer = load_tokenizer(path)
    words = [
        word for word in [*texts([*WORDS, "é", "中中", "\t", "😀"], 3, 3), *WORDS, "fox = x", "\t"] for _ in range(60)
    ]
    random.Random(4).shuffle(words)
    assert tokenizer.encode(" ".join(words)) == [id for word in words for id in tokenizer.encode(word)]


@pytest.mark.parametrize("unit", ["x", "😀", "=", " ", "\n", "e\u0301"])
def test_texts_without_a_place_to_cut(model_file, unit):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    tokenizer, model = load_tokenizer(model_file), read_sentencepiece(model_file)
    text = unit * 2999
    assert tokenizer.encode(text) == best_cut(model, pieces.normalize(text))
