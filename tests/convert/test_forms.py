"""Weights and adapters are converted alike from a .pt, a .safetensors and shards of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fm9g.convert.adapter_files import adapters_to_peft, peft_to_bmtrain
from fm9g.convert.adapters import read_adapters
from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from tests.convert.helpers import edit_json
from tests.convert.test_adapters import theirs
from tests.support.shards import in_shards
from tests.support.tools import run_tool_here

pytestmark = pytest.mark.usefixtures("single_rank")


def in_all_forms(weights: Path) -> list[Path]:
    """A .pt, and its tensors in one .safetensors and in shards, in folders of their own with what lies beside it."""
    for name in ("single", "shards"):
        (weights.parent / name).mkdir()
        for path in weights.parent.glob(f"{weights.stem}.*json"):
            shutil.copy(path, weights.parent / name)
    single = weights.parent / "single" / f"{weights.stem}.safetensors"
    save_file(torch.load(weights, weights_only=True), single)
    return [weights, single, in_shards(weights, weights.parent / "shards")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def weights(llama: Path, tmp_path: Path) -> list[Path]:
    huggingface_to_bmtrain(llama, tmp_path / "w.pt")
    return in_all_forms(tmp_path / "w.pt")


def test_the_folder_is_the_same_whatever_it_is_made_of(llama: Path, weights: list[Path], tmp_path: Path) -> None:
    folders = []
    for number, path in enumerate(weights):
        target = tmp_path / f"folder{number}"
        words = ["--huggingface-ref-dir", llama, "--bmtrain-ckpt-path", path, "--huggingface-save-dir", target]
        done = run_tool_here("bmtrain_2_hgface.py", [*map(str, words), "--max-shard-size", "60KB"], tmp_path)
        assert done.returncode == 0, done.output
        folders.append(contents(target))
    assert len(folders[0]) > 4
    assert folders[1] == folders[0]
    assert folders[2] == folders[0]


def test_the_config_beside_each_is_held_against_the_folders(llama: Path, weights: list[Path], tmp_path: Path) -> None:
    for path in weights:
        config = path.with_name("w.json")
        edit_json(config, eps=1e-3)
        with pytest.raises(UserError, match=f"{config} and .* describe different models: eps"):
            with_reference(llama, path, tmp_path / "folder")


def test_adapters_are_merged_and_written_alike(llama: Path, weights: list[Path], tmp_path: Path) -> None:
    theirs(llama).save_pretrained(tmp_path / "peft")
    (tmp_path / "adapters").mkdir()
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "adapters/a.pt")
    merged, alone = [], []
    for number, path in enumerate(in_all_forms(tmp_path / "adapters/a.pt")):
        saved = read_adapters(path, None)  # what they are is told by the note beside them
        with_reference(llama, weights[number], tmp_path / f"merged{number}", adapters=saved)
        merged.append(contents(tmp_path / f"merged{number}"))
        adapters_to_peft(saved, llama, None, tmp_path / f"peft{number}")
        alone.append(contents(tmp_path / f"peft{number}"))
    assert merged[0] == merged[1] == merged[2] != contents(llama)
    assert alone[0] == alone[1] == alone[2]
