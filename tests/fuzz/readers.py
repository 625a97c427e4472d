"""The readers of a user's files: good files for each, and what a command does with them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import sentencepiece
import torch
import zstandard
from safetensors.torch import save_file

from fm9g.convert.hf_config import huggingface_config, model_config_from_huggingface
from fm9g.convert.tokenizer.files import install_tokenizer
from fm9g.convert.tokenizer.from_class import write_tokenizer_json
from fm9g.convert.tokenizer.merged import merge_tokenizers
from fm9g.data.index.build import Options, build
from fm9g.data.index.check import check
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect.dataset import length_lines, record_lines, summary
from fm9g.data.inspect.lengths import measure_lengths
from fm9g.data.prepare.formats import FORMATS
from fm9g.data.prepare.plain_text import convert_text
from fm9g.data.prepare.question_answer import prepare_questions
from fm9g.data.prepare.writer import prepare_records
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.forecast import describe, endings
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.data.tokens.training import save_tokenizer, train_tokenizer
from fm9g.files import read_json, require_file, write_json
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import num_parameters
from fm9g.settings import parse_words
from fm9g.tensors.readers import Checkpoint, map_tensors, read_huggingface_folder, read_pt, read_weights
from fm9g.training.settings import COMMAND_LINE, Settings, read_train_config
from tests.support.ranked import write_ranks
from tests.support.shards import in_shards

TEXTS = [
    f"{text} {i}"
    for i in range(20)
    for text in ("The river runs to the sea.", "月亮出来了,星星也。", "🙂\n  two\t\x0b")
]
RECORDS = [{"input": "ask" if i % 2 else "", "output": text} for i, text in enumerate(TEXTS)]
MODEL = {
    "vocab_size": 300,
    "dim_model": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "num_layers": 1,
    "dim_ff": 24,
    "base": 10000.0,
    "max_length": 64,
    "rope_scaling_type": "linear",
    "rope_scaling_factor": 2.0,
    "tie_lm_head": True,
}
CHATS: dict[str, Any] = {
    "alpaca": [{"instruction": "add", "input": "1 2", "output": "3", "system": "s", "history": [["q", "a"]]}],
    "sharegpt": [{"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]}],
    "text": [{"text": "a text"}],
}


@dataclass(frozen=True)
class Reader:
    """`make` writes good files into a folder, and `read` reads them; it may write into the other folder it is given.

    `damaged` (globs) are the files, one of which is damaged at a time.
    """

    make: Callable[[Path], None]
    read: Callable[[Path, Path], object]
    damaged: tuple[str, ...] = ("*",)
    cost: int = 1  # of an input: so many times fewer are tried

    def files(self, folder: Path) -> list[Path]:
        """Those files, in a folder of good ones."""
        return sorted(path for glob in self.damaged for path in folder.glob(glob) if path.is_file())


def _jsonl(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def _write(name: str, content: Callable[[], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content())

    return make


def _as_json(name: str, value: Any) -> Callable[[Path], None]:
    return _write(name, lambda: json.dumps(value).encode())


# datasets


def _make_dataset(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(_jsonl(RECORDS))
    build(folder / "x.jsonl", folder / "set", "en")


def _read_dataset(folder: Path, _: Path) -> None:
    for name in ("data.jsonl", "index", "index.h5"):  # damaging them made them new, in whatever order
        if (folder / "set" / name).is_file():
            (folder / "set" / name).touch()
    dataset = IndexedDataset(folder / "set")
    summary(dataset)
    length_lines(measure_lengths(dataset), dataset.meta)
    dataset.fingerprints  # noqa: B018  it is computed
    for number in range(len(dataset)):
        record_lines(dataset, number, 80)


def _make_text_index(folder: Path) -> None:
    _make_dataset(folder)
    (folder / "set/index.h5").unlink()


def _index(folder: Path, output: Path) -> None:
    build(sorted(folder.iterdir()), output / "set", "zh", Options(workers=1))


def _prepare(file: str, name: str, **options: str) -> Callable[[Path, Path], None]:
    def read(folder: Path, output: Path) -> None:
        prepare_records(folder / file, output / "out.jsonl", FORMATS[name](**options))

    return read


def _make_parquet(folder: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(CHATS["sharegpt"] * 30), folder / "x.parquet")


def _convert_text(folder: Path, output: Path) -> None:
    with open(require_file(folder / "x.txt"), "rb") as source, open(output / "x.jsonl", "wb") as sink:
        convert_text(source, sink, "x.txt")


# tokenizers


def _make_sentencepiece(folder: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(folder / "x"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "x.vocab").unlink()


def _make_tokenizer(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(_jsonl(RECORDS))
    save_tokenizer(train_tokenizer([folder / "x.jsonl"], 280), folder)
    write_json(folder / "config.json", {"bos_token_id": 0, "eos_token_id": [1]})


def _make_two_tokenizers(folder: Path) -> None:
    for name, size in (("base", 270), ("domain", 300)):
        (folder / name).mkdir()
        (folder / "x.jsonl").write_bytes(_jsonl(RECORDS))
        save_tokenizer(train_tokenizer([folder / "x.jsonl"], size), folder / name)


def _make_ranks(folder: Path) -> None:
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", "中".encode()]
    write_ranks(folder / "qwen.tiktoken", tokens)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "QWenTokenizer", "model_max_length": 8192})


def _merge_tokenizers(folder: Path, output: Path) -> None:
    merge_tokenizers(folder / "base", folder / "domain", output / "merged")


def _use_tokenizer(folder: Path, output: Path) -> None:
    path = next(folder.glob("*.model"), folder)
    tokenizer = load_tokenizer(path)
    for text in TEXTS:
        tokenizer.decode(tokenizer.encode(text))
    install_tokenizer(path, output, 10**6)


def _make_sentencepiece_folder(folder: Path) -> None:
    _make_sentencepiece(folder)
    (folder / "x.model").rename(folder / "tokenizer.model")
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}
    write_json(folder / "tokenizer_config.json", {**names, "tokenizer_class": "LlamaTokenizer", "legacy": True})
    write_json(folder / "special_tokens_map.json", {**names, "pad_token": "<unk>"})


def _export_tokenizer(folder: Path, output: Path) -> None:
    install_tokenizer(folder, output, 70_000)


# models


def _huggingface_config() -> dict[str, Any]:
    config = ModelConfig.from_dict(MODEL)
    return huggingface_config(config, "F32", {"bos_token_id": 0, "eos_token_id": 1}, "model")


def _convert_config(folder: Path, _: Path) -> None:
    config = model_config_from_huggingface(read_json(folder / "config.json"), "config.json")
    num_parameters(config)


def _model_config(folder: Path, output: Path) -> None:
    config = ModelConfig.from_json(folder / "x.json")
    config.to_json(output / "x.json")
    huggingface_config(config, "F32", {}, "x.json")


def _tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(8, 4), "b": torch.zeros(3, dtype=torch.bfloat16), "c": torch.ones(2, 2, 2)}


def _read_all(checkpoint: Checkpoint) -> None:
    for tensor in checkpoint.values():
        for _ in tensor.pieces():
            pass


def _make_shards(folder: Path) -> None:
    tensors = _tensors()
    shards = {"model-1.safetensors": ["a.weight"], "model-2.safetensors": ["b", "c"]}
    for name, members in shards.items():
        save_file({member: tensors[member] for member in members}, folder / name)
    weight_map = {member: name for name, members in shards.items() for member in members}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _make_pt(folder: Path) -> None:
    torch.save(_tensors(), folder / "x.pt")


def _make_sharded_weights(folder: Path) -> None:
    _make_pt(folder)
    in_shards(folder / "x.pt", folder, 2)
    (folder / "x.pt").unlink()


def _map_sharded_weights(folder: Path, _: Path) -> None:
    found = read_weights(folder / "x.safetensors.index.json")
    for tensor in found.values():
        if tensor.mapped is not None:
            tensor.mapped().sum()
    _read_all(found)


def _make_bin(folder: Path) -> None:
    torch.save(_tensors(), folder / "pytorch_model.bin")


MIXTURE = [
    {"path": "a", "abs_weight": 0.5, "task_name": "a", "transforms": "t.py", "max_epochs": 2, "nlines": 3},
    {"path": "b", "abs_weight": 1, "dataset_name": "b", "oversize_rule": "drop", "allow_repeat": False},
]


def _make_mixture(folder: Path) -> None:
    _make_tokenizer(folder)
    for name in "ab":
        build(folder / "x.jsonl", folder / name, "en")
    (folder / "t.py").write_text("def transform(data, num_sample, rng):\n    return data\n")
    write_json(folder / "x.json", MIXTURE)


def _use_mixture(folder: Path, output: Path) -> None:
    tokenizer = load_tokenizer(folder)
    corpora = [Corpus(entry, tokenizer, 1, 64) for entry in read_mixture(folder / "x.json")]
    describe(endings(corpora, 256, [0] * len(corpora), 0), 100, False, False)


TRAIN = {"pretrain": {"lr": 1e-3, "train_iters": 10, "betas": [0.9, 0.95], "save": True, "lr_scheduler": "Cosine"}}
LINE = "--lr 1e-3 --train_iters=10 --betas 0.9,0.95 --save False --resume_ckpt latest --eps 1e-5 --n_gpus 2"

READERS = {
    "index": Reader(_write("x.jsonl", lambda: _jsonl(RECORDS)), _index, ("x.jsonl",)),
    "index gz": Reader(_write("x.jsonl.gz", lambda: gzip.compress(_jsonl(RECORDS), mtime=0)), _index),
    "index zst": Reader(_write("x.jsonl.zst", lambda: zstandard.compress(_jsonl(RECORDS))), _index),
    "dataset": Reader(_make_dataset, _read_dataset, ("set/*",)),
    "dataset without index.h5": Reader(_make_text_index, _read_dataset, ("set/*",)),
    "check": Reader(_make_dataset, lambda folder, _: check(folder / "set"), ("set/*",)),
    "alpaca json": Reader(
        _as_json("x.json", CHATS["alpaca"]),
        _prepare("x.json", "alpaca", user_tag="U", assistant_tag="A"),
    ),
    "sharegpt jsonl": Reader(_write("x.jsonl", lambda: _jsonl(CHATS["sharegpt"])), _prepare("x.jsonl", "sharegpt")),
    "sharegpt parquet": Reader(_make_parquet, _prepare("x.parquet", "sharegpt")),
    "text csv": Reader(_write("x.csv", lambda: b'text,b\n"a, b",c\n\n"""",""\n'), _prepare("x.csv", "text")),
    "text gz": Reader(
        _write("x.json.gz", lambda: gzip.compress(_jsonl(CHATS["text"]), mtime=0)), _prepare("x.json.gz", "text")
    ),
    "questions": Reader(
        _as_json("x.json", [{"Question": "问题", "Response": "回答"}] * 3),
        lambda folder, output: prepare_questions(folder / "x.json", output / "out", "Question", "Response"),
    ),
    "text": Reader(_write("x.txt", lambda: "\n".join(TEXTS).encode()), _convert_text),
    "sentencepiece": Reader(_make_sentencepiece, _use_tokenizer, cost=10),
    "tokenizer folder": Reader(_make_tokenizer, _use_tokenizer, ("*.json",)),
    "exported tokenizer": Reader(_make_tokenizer, _export_tokenizer, ("*.json",)),
    "exported tokenizer.model": Reader(_make_sentencepiece_folder, _export_tokenizer, cost=5),
    "tokenizer of ranks": Reader(
        _make_ranks, lambda folder, output: write_tokenizer_json(folder, output / "made"), cost=10
    ),
    "merged tokenizers": Reader(_make_two_tokenizers, _merge_tokenizers, ("*/tokenizer.json",), cost=10),
    "tokenizer training": Reader(
        _write("x.jsonl", lambda: _jsonl(RECORDS)),
        lambda folder, _: train_tokenizer([folder / "x.jsonl"], 280),
    ),
    "tokenizer training gz": Reader(
        _write("x.jsonl.gz", lambda: gzip.compress(_jsonl(RECORDS), mtime=0)),
        lambda folder, _: train_tokenizer([folder / "x.jsonl.gz"], 280),
    ),
    "mixture": Reader(_make_mixture, _use_mixture, ("x.json",), cost=5),
    "train config": Reader(_as_json("x.json", TRAIN), lambda folder, _: read_train_config(folder / "x.json")),
    "command line": Reader(
        _write("words", LINE.encode),
        lambda folder, _: parse_words(
            Settings, require_file(folder / "words").read_text("utf-8", "surrogateescape").split(), COMMAND_LINE
        ),
    ),
    "model config": Reader(_as_json("x.json", MODEL), _model_config),
    "Hugging Face config": Reader(
        lambda folder: write_json(folder / "config.json", _huggingface_config()),
        _convert_config,
    ),
    "safetensors": Reader(_make_shards, lambda folder, _: _read_all(read_huggingface_folder(folder))),
    "bin": Reader(_make_bin, lambda folder, _: _read_all(read_huggingface_folder(folder))),
    "pt": Reader(_make_pt, lambda folder, _: _read_all(read_pt(folder / "x.pt"))),
    "weights": Reader(_make_pt, lambda folder, _: map_tensors(folder / "x.pt")),
    "sharded weights": Reader(_make_sharded_weights, _map_sharded_weights),
}
