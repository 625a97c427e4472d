"""Training a byte-level BPE tokenizer on jsonl records, saved as a Hugging Face tokenizer folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from fm9g.data.jsonl_records import read_records, record_texts
from fm9g.data.record_kinds import unread_kind, unread_texts
from fm9g.data.tokens.tokenizer import without_surrogates
from fm9g.errors import UserError
from fm9g.files import write_json

BOS, EOS = "<s>", "</s>"
SMALLEST_VOCABULARY = 258  # 256 bytes, BOS, EOS
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
_TEXTS_AT_ONCE = 1000
_SOON = 5_000_000  # characters, of which tokens are chosen in seconds
_LOOKED_AT = 1000  # records, for texts in other fields


def train_tokenizer(sources: Sequence[str | os.PathLike[str]], vocab_size: int) -> tokenizers.Tokenizer:
    """Train on the `input` and `output` of the records of jsonl files, which are streamed; the same files in the
    same order give the same tokenizer. The vocabulary can end up smaller than `vocab_size` on a small text.

    It adds BOS where Hugging Face code calls it with special tokens, as LLaMA's does. UserError for a vocabulary
    below 258, a malformed record, or files without any text.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f"a vocabulary of {vocab_size} is too small: 256 bytes, {BOS} and {EOS} are already 258")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # it comes as a set
        show_progress=False,
    )
    texts = _Batches(sources)
    tokenizer.train_from_iterator(texts, trainer)
    if not texts.count:
        raise UserError(f'{", ".join(map(str, sources))}: no record has text in "input" nor "output"')
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def save_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Write the files of TOKENIZER_FILES into `folder`, for transformers' AutoTokenizer (4.44 and later)."""
    write_json(folder / "tokenizer.json", _portable(tokenizer))
    write_json(folder / "special_tokens_map.json", {"bos_token": BOS, "eos_token": EOS})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "clean_up_tokenization_spaces": False,  # the default of some versions changes decoded text
            "model_max_length": int(1e30),  # transformers' own spelling of "no limit"
        },
    )


class _Batches:
    """Iterates over lists of texts, as the tokenizers library takes them fastest, and counts the texts.

    Texts in other fields than these, of the first records, are warned of.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]]):
        self._sources = sources
        self.count = 0

    def _records(self) -> Iterator[dict[str, Any]]:
        said: set[str] = set()
        for number, record in enumerate(read_records(self._sources)):
            kind = unread_kind(record) if number < _LOOKED_AT else None
            if kind and kind.advice not in said:
                said.add(kind.advice)
                print(f"warning: {unread_texts(kind.advice)}", file=sys.stderr)
            yield record

    def __iter__(self) -> Iterator[list[str]]:
        texts, characters = map(without_surrogates, record_texts(self._records())), 0
        while batch := list(islice(texts, _TEXTS_AT_ONCE)):
            self.count += len(batch)
            characters += sum(map(len, batch))
            yield batch
        if characters > _SOON:
            print(
                f"{self.count:,} texts, {characters:,} characters are read; choosing the tokens takes some minutes",
                file=sys.stderr,
            )


def _portable(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """tokenizer.json as tokenizers before 0.20 (transformers 4.44) read it too: merges as "a b", not ["a", "b"]."""
    content = json.loads(tokenizer.to_str())
    merges = content["model"]["merges"]
    content["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    return content
