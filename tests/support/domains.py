"""A base's texts, a domain's, and tiny tokenizers of both in every kind that pieces can be merged in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from fm9g.convert.tokenizer.files import install_tokenizer
from fm9g.data.tokens.training import save_tokenizer, train_tokenizer
from tests.support.places import write_jsonl
from tests.support.tiny_tokenizers import with_tokens

BASE_TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the other dogs sleep on.",
    "A tiny model reads words and learns to guess which of them comes next.",
    "In 2024 it cost 3,141.59 (about 12%); see {key: [0x0A]} == x!",
    "there is nothing that the others have not thought of: 一天，人们在那里。",
] * 5
DOMAIN_TEXTS = [
    "糖尿病患者应当注意血糖；高血压患者应当注意血压。糖尿病与高血压常常并存。",
    "the carcinoma of the patient, and carcinomas of other patients: chemotherapy.",
    "高血压、糖尿病患者的化疗：chemotherapy of patients with carcinoma, the other therapy.",
] * 8
LLAMA: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "vocab_size": 400,
}


def sentencepiece_model(path: Path, texts: Sequence[str], **options: Any) -> Path:
    """A sentencepiece model of `texts`, BPE with bytes unless `options` say otherwise."""
    written = io.BytesIO()
    defaults = {**LLAMA, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, **{**defaults, **options}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written.getvalue())
    return path


def byte_level(folder: Path, texts: Sequence[str], size: int = 400) -> Path:
    """A folder of tools/train_tokenizer.py."""
    folder.mkdir(parents=True)
    source = write_jsonl(folder / "texts.jsonl", [{"input": "", "output": text} for text in texts])
    save_tokenizer(train_tokenizer([source], size), folder)
    return folder


def _json_of(model: Path) -> Path:
    """The folder of a sentencepiece model, as a Hugging Face tokenizer alone."""
    folder = model.parent / "json"
    folder.mkdir()
    install_tokenizer(model, folder, 10_000)
    (folder / "tokenizer.model").unlink()
    return folder


def _with_list_merges(folder: Path) -> Path:
    """The merges as later versions write them: ["a", "b"]."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = [
        merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"]["merges"]
    ]
    path.write_text(json.dumps(content))
    return folder


UNIGRAM: dict[str, Any] = {
    "model_type": "unigram", "vocab_size": 150, "normalization_rule_name": "nmt_nfkc", "byte_fallback": False,
    "remove_extra_whitespaces": True,
}  # fmt: skip
# kind: (the base in a folder, the domain in a folder)
Maker = Callable[[Path], Path]
PAIRS: dict[str, tuple[Maker, Maker]] = {
    "sentencepiece bpe": (
        lambda f: sentencepiece_model(f / "b.model", BASE_TEXTS),
        lambda f: sentencepiece_model(f / "d.model", DOMAIN_TEXTS),
    ),
    "sentencepiece bpe, domain of unigram": (
        lambda f: sentencepiece_model(f / "tokenizer.model", BASE_TEXTS).parent,
        lambda f: sentencepiece_model(f / "d.model", DOMAIN_TEXTS, **UNIGRAM),
    ),
    "sentencepiece unigram": (
        lambda f: sentencepiece_model(f / "b.model", BASE_TEXTS, **UNIGRAM),
        lambda f: sentencepiece_model(f / "d.model", DOMAIN_TEXTS, **UNIGRAM),
    ),
    "tokenizer.json with blanks": (
        lambda f: _json_of(sentencepiece_model(f / "b.model", BASE_TEXTS)),
        lambda f: sentencepiece_model(f / "d.model", DOMAIN_TEXTS),
    ),
    "bytes": (lambda f: byte_level(f / "b", BASE_TEXTS), lambda f: byte_level(f / "d", DOMAIN_TEXTS)),
    "bytes, added tokens after the vocabulary": (
        lambda f: _with_list_merges(with_tokens(f / "b", ["<|im_start|>", "<|im_end|>"], BASE_TEXTS)),
        lambda f: byte_level(f / "d", DOMAIN_TEXTS),
    ),
}
