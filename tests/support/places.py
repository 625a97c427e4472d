"""A tiny corpus, tokenizer, mixture and model.

place = Place.make(tmp_path_factory.mktemp("place"))
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.data.index.build import build
from fm9g.data.tokens.training import save_tokenizer, train_tokenizer

PROSE_RECORDS, QUESTION_RECORDS = 120, 50
MODEL = {
    "vocab_size": 320,
    "dim_model": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "dim_head": 16,
    "dim_ff": 48,
    "num_layers": 2,
    "dtype": "float32",
    "max_length": 128,
    "tie_lm_head": False,
}
# small enough for many runs, big enough that every part takes part: two micro-steps, documents cut at row ends
SETTINGS: dict[str, Any] = {
    "model_unique": "u",
    "n_gpus": 1,
    "max_length": 64,
    "batch_size": 1,
    "grad_accum": 2,
    "train_iters": 4,
    "warmup_iters": 2,
    "lr": 3e-3,
    "save_iters": 100,
    "inspect_iters": 0,
    "dataloader_num_workers": 0,
    "seed": 5,
}


def write_jsonl(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def index(folder: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """An indexed dataset of the records at `folder`."""
    source = write_jsonl(folder.with_name(folder.name + ".jsonl"), records)
    build(source, folder, "en")
    return folder


def prose_records(count: int = PROSE_RECORDS) -> list[dict[str, str]]:
    """Texts of 1 to 60 words over a small vocabulary; every one of them differs."""
    r = random.Random(1)
    words = [
        "the",
        "a",
        "tiny",
        "model",
        "reads",
        "words",
        "and",
        "learns",
        "to",
        "guess",
        "which",
        "of",
        "them",
        "comes",
        "next",
        "月",
        "光",
    ]
    return [{"input": "", "output": f"{i} " + " ".join(r.choices(words, k=r.randint(1, 60)))} for i in range(count)]


def question_records(count: int = QUESTION_RECORDS) -> list[dict[str, str]]:
    """Short questions with their answers."""
    r = random.Random(2)
    pairs = [(r.randrange(100), r.randrange(100)) for _ in range(count)]
    return [{"input": f"{i}: {a} plus {b}?", "output": f"{a + b}"} for i, (a, b) in enumerate(pairs)]


@dataclass(frozen=True)
class Place:
    """A folder with data, tokenizer, mixture and configs. `mixture` holds prose to questions 0.7 to 0.3 of tokens."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Place:
        """Write all of it."""
        index(root / "prose", prose_records())
        index(root / "questions", question_records())
        save_tokenizer(
            train_tokenizer([root / "prose.jsonl", root / "questions.jsonl"], 300), _made(root / "tokenizer")
        )
        place = cls(root)
        place.write_mixture("mixture", [{"path": "prose", "abs_weight": 0.7}, {"path": "questions", "abs_weight": 0.3}])
        place.write_model("tiny")
        return place

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def mixture(self) -> Path:
        return self.root / "mixture.json"

    @property
    def config(self) -> Path:
        return self.root / "model_configs/tiny.json"

    def write_mixture(self, name: str, entries: Sequence[Mapping[str, Any]]) -> Path:
        """<name>.json; an entry's task_name is its path unless it says another."""
        path = self.root / f"{name}.json"
        path.write_text(json.dumps([{"task_name": str(entry["path"]), **entry} for entry in entries]), encoding="utf-8")
        return path

    def write_model(self, name: str, **changes: object) -> Path:
        """model_configs/<name>.json: MODEL with changes."""
        path = _made(self.root / "model_configs") / f"{name}.json"
        path.write_text(json.dumps({**MODEL, **changes}), encoding="utf-8")
        return path

    def words(self, output: Path, **changes: object) -> list[str]:
        """The command line of a run that writes to `output`; a setting that is None is left out."""
        settings = {
            "config": self.config,
            "tokenizer_path": self.tokenizer,
            "dataset_config": self.mixture,
            "output_dir": output,
            **SETTINGS,
            **changes,
        }
        return [word for key, value in settings.items() if value is not None for word in (f"--{key}", str(value))]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
