"""Tiny tokenizers of every kind, each in a folder of its own, for tests of what text may write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = ["the tiny model reads words < / s > | [ ] _ i m e n d p a", "</s> 月光 明 <s> x", "hello world"] * 30
MARKERS = ["<s>", "</s>", "<pad>", "<|im_end|>"]
CHARACTERS = sorted({char for text in CORPUS for char in text})
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "additional_special_tokens": ["<|im_end|>"]}


def save(tokenizer: tokenizers.Tokenizer, folder: Path, added: list[AddedToken] | None = None, **config: Any) -> Path:
    """Write tokenizer.json, with the markers as special added tokens unless `added` says otherwise, and its config."""
    folder.mkdir(parents=True)
    for token in [AddedToken(text, special=True) for text in MARKERS] if added is None else added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def unigram(pieces: list[str] | None = None) -> tokenizers.Tokenizer:
    """A Unigram whose vocabulary holds the markers, which its model then finds in text."""
    pieces = ["<unk>", *MARKERS, "▁", *CHARACTERS, "▁the", "lo", "w"] if pieces is None else pieces
    scores = [0.0] * 5 + [-2.0 - i / 10 for i in range(len(pieces) - 5)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def word_level(unk: str = "<unk>") -> tokenizers.Tokenizer:
    """Words between blanks."""
    vocabulary = ["<unk>", *MARKERS, "the", "tiny", "model", "x"]
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def word_piece() -> tokenizers.Tokenizer:
    """Words between blanks, in pieces."""
    vocabulary = ["<unk>", *MARKERS, *CHARACTERS, *(f"##{char}" for char in CHARACTERS), "the"]
    model = models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def bpe(unk: str = "<unk>", **options: Any) -> tokenizers.Tokenizer:
    """A BPE whose merges put "</s>" together: < /, </ s, </s >."""
    vocabulary = ["<unk>", *MARKERS, *CHARACTERS, "</", "</s", "th", "the"]
    merges = [("<", "/"), ("</", "s"), ("t", "h"), ("th", "e"), ("</s", ">")]
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=unk, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def normalized(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """With a normalizer that makes markers out of other characters."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("\u200b", "")]
    )
    return tokenizer


def sentence_pieces(folder: Path, **options: Any) -> Path:
    """A sentencepiece model with BOS and EOS."""
    folder.mkdir(parents=True)
    texts = [text.replace("</s>", "").replace("<s>", "") for text in CORPUS]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "tokenizer"), hard_vocab_limit=False,
        minloglevel=2, **{"vocab_size": 60, "control_symbols": ["<pad>"], **options},
    )  # fmt: skip
    return folder


def chat(folder: Path) -> Path:
    """A byte-level BPE whose EOS ends a turn, as many chat models have it."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(special_tokens=["<s>", "<|im_end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    added = [AddedToken(text, special=True) for text in ("<s>", "<|im_end|>", "<|im_start|>")]
    return save(tokenizer, folder, added, eos_token="<|im_end|>")


def _added(**flags: Any) -> list[AddedToken]:
    return [AddedToken(text, **flags) for text in MARKERS]


KINDS: dict[str, Callable[[Path], Path]] = {
    "unigram": lambda f: save(unigram(), f),
    "unigram, markers in the vocabulary only": lambda f: save(unigram(), f, []),
    "unigram, normalized": lambda f: save(normalized(unigram()), f),
    "unigram of markers alone, whose unknown text is fused": lambda f: save(unigram(["<unk>", *MARKERS, "▁"]), f),
    "word level": lambda f: save(word_level(), f),
    "word piece": lambda f: save(word_piece(), f),
    "bpe": lambda f: save(bpe(), f),
    "bpe, markers that are not special": lambda f: save(bpe(), f, _added(special=False)),
    "bpe, markers that are normalized": lambda f: save(normalized(bpe()), f, _added(special=False, normalized=True)),
    "bpe, markers that take blanks along": lambda f: save(bpe(), f, _added(special=True, lstrip=True, rstrip=True)),
    "bpe, unknown is EOS": lambda f: save(bpe("</s>"), f, unk_token="</s>"),
    "bpe, ignore_merges": lambda f: save(bpe(ignore_merges=True), f),
    "bpe, byte_fallback": lambda f: save(bpe(byte_fallback=True, fuse_unk=True), f),
    "sentencepiece unigram": lambda f: sentence_pieces(f),
    "sentencepiece bpe": lambda f: sentence_pieces(f, model_type="bpe"),
    "sentencepiece bpe of bytes": lambda f: sentence_pieces(f, model_type="bpe", byte_fallback=True, vocab_size=320),
    "sentencepiece words": lambda f: sentence_pieces(
        f, model_type="word", add_dummy_prefix=False, vocab_size=20, use_all_vocab=True
    ),
    "sentencepiece characters": lambda f: sentence_pieces(f, model_type="char", control_symbols=["x"]),
    "sentencepiece, pieces that are user-defined": lambda f: sentence_pieces(
        f, user_defined_symbols=["<|im_end|>", "<think>"]
    ),
}


def with_tokens(folder: Path, tokens: list[str], texts: list[str], **config: Any) -> Path:
    """A byte-level BPE of `texts`, with BOS, EOS and `tokens` as special tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    added = [AddedToken(text, special=True) for text in ["<s>", "</s>", *tokens]]
    return save(tokenizer, folder, added, **{"pad_token": None, "additional_special_tokens": [], **config})
