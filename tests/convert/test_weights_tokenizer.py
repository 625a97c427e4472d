"""The note beside converted weights on the tokenizer that they came with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.convert.weights_tokenizer import recorded_tokenizer
from fm9g.data.tokenizer import load_tokenizer
from fm9g.data.tokenizer_training import save_tokenizer, train_tokenizer
from fm9g.errors import UserError


def test_converted_weights_know_the_folders_tokenizer(tmp_path: Path, own_llama: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"output": "a few words"}\n')
    save_tokenizer(train_tokenizer([tmp_path / "text.jsonl"], 270), own_llama)
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    assert recorded_tokenizer(tmp_path / "7b.pt") == load_tokenizer(own_llama).fingerprint
    (tmp_path / "7b.pt").unlink()
    (tmp_path / "7b.json").unlink()
    with pytest.raises(UserError, match=r"7b\.tokenizer\.json: exists already"):
        huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    (own_llama / "tokenizer.json").unlink()
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt", overwrite=True)
    assert recorded_tokenizer(tmp_path / "7b.pt") is None


def test_a_folder_without_a_tokenizer_leaves_no_note(tmp_path: Path, llama: Path) -> None:
    huggingface_to_bmtrain(llama, tmp_path / "7b.pt")
    assert sorted(path.name for path in tmp_path.glob("7b*")) == ["7b.json", "7b.pt"]
    assert recorded_tokenizer(tmp_path / "7b.pt") is None


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    (tmp_path / "7b.tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match=r"7b\.tokenizer\.json: expected an object"):
        recorded_tokenizer(tmp_path / "7b.pt")
