"""A tiny model that was finetuned on conversations, in every form that a person may have it in."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from fm9g.convert.adapter_files import adapters_to_peft
from fm9g.convert.adapters import read_adapters
from fm9g.convert.bmtrain_to_huggingface import from_scratch
from tests.support.browser import CHROMIUM, DRIVER
from tests.support.chats import RECORDS
from tests.support.places import Place, index, write_jsonl
from tests.support.runs_here import train_here
from tests.support.tiny_tokenizers import with_tokens

TEMPLATE = "chatml"
collect_ignore = [] if DRIVER and CHROMIUM else ["test_page.py"]


@dataclass(frozen=True)
class Forms:
    """Paths: of the whole model as a .pt, its run's folder, and a Hugging Face folder; of adapters for it as a run's
    folder and a PEFT folder; and of the two merged in a Hugging Face folder."""

    place: Place
    weights: Path
    run: Path
    folder: Path
    adapters: Path
    peft: Path
    merged: Path


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory, single_rank: None) -> Forms:
    """Read them, do not change them."""
    root = tmp_path_factory.mktemp("forms")
    place = Place(root)
    with_tokens(place.tokenizer, ["<|im_start|>", "<|im_end|>"], [str(record) for record in RECORDS])
    index(root / "chats", RECORDS)
    place.write_mixture("mixture", [{"path": "chats", "abs_weight": 1, "format": "chat", "template": TEMPLATE}])
    place.write_model("tiny", vocab_size=700, max_length=256)
    settings = {"max_length": 256, "train_iters": 40, "save_iters": 40, "lr": 1e-2}
    whole = train_here(place, root / "whole", **settings)
    weights = whole.checkpoints / "40/fm9g_live_checkpoint-40.pt"
    changes = {"lora": 1, "lora_r": 4, "pretrained_model": weights, "lr": 3e-2, "seed": 9}
    adapted = train_here(place, root / "adapted", **settings | changes)
    adapters = adapted.checkpoints / "40/fm9g_live_checkpoint-40.pt"
    from_scratch(place.config, place.tokenizer, weights, root / "folder")
    saved = read_adapters(adapters, None)
    from_scratch(place.config, place.tokenizer, weights, root / "merged", adapters=saved)
    adapters_to_peft(saved, root / "folder", None, root / "peft")
    return Forms(
        place, weights, whole.checkpoints, root / "folder", adapted.checkpoints, root / "peft", root / "merged"
    )


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A file of conversations with answers of their own."""
    return write_jsonl(tmp_path / "dev.jsonl", RECORDS[:7])


@pytest.fixture
def alone(tmp_path: Path, forms: Forms) -> Path:
    """The whole model's .pt, in a folder that says nothing of it."""
    for path in (forms.weights, forms.weights.with_suffix(".json")):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / forms.weights.name
