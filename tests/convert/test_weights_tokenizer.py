"""The note beside converted weights on the tokenizer that they came with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.convert.tokenizer.of_weights import architecture_of, note_origin, vocabulary_of
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.data.tokens.training import save_tokenizer, train_tokenizer
from fm9g.errors import UserError


def test_converted_weights_know_the_folders_tokenizer(tmp_path: Path, own_llama: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"output": "a few words"}\n')
    save_tokenizer(train_tokenizer([tmp_path / "text.jsonl"], 270), own_llama)
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    assert vocabulary_of(tmp_path / "7b.pt") == load_tokenizer(own_llama).vocabulary
    (tmp_path / "7b.pt").unlink()
    (tmp_path / "7b.json").unlink()
    with pytest.raises(UserError, match=r"7b\.tokenizer\.json: exists already"):
        huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    (own_llama / "tokenizer.json").unlink()
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt", overwrite=True)
    assert vocabulary_of(tmp_path / "7b.pt") is None


def test_of_a_folder_without_a_tokenizer_the_architecture_alone_is_noted(tmp_path: Path, llama: Path) -> None:
    huggingface_to_bmtrain(llama, tmp_path / "7b.pt")
    assert json.loads((tmp_path / "7b.tokenizer.json").read_text()) == {"architecture": "LlamaForCausalLM"}
    assert vocabulary_of(tmp_path / "7b.pt") is None
    assert architecture_of(tmp_path / "7b.pt") == "LlamaForCausalLM"


def test_a_tokenizer_that_cannot_be_read_is_said_and_not_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.json").write_text("not JSON")
    note_origin(tmp_path / "7b.pt", tmp_path, "LlamaForCausalLM")
    assert "7b.pt: which tokenizer it came with is not noted: " in capsys.readouterr().err
    assert vocabulary_of(tmp_path / "7b.pt") is None and architecture_of(tmp_path / "7b.pt") == "LlamaForCausalLM"


def test_where_nothing_is_known_no_note_is_left(tmp_path: Path) -> None:
    note_origin(tmp_path / "7b.pt", tmp_path, "LlamaForCausalLM")
    note_origin(tmp_path / "7b.pt", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_tells_the_vocabulary_of_its_weights_and_a_note_comes_first(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"stream": {"vocabulary": "the run's"}}))
    assert vocabulary_of(tmp_path / "7b.pt") == "the run's"
    (tmp_path / "7b.tokenizer.json").write_text('{"vocabulary": "the note\'s"}')
    assert vocabulary_of(tmp_path / "7b.pt") == "the note's"


@pytest.mark.parametrize("content", ["[]", "not JSON", '{"vocabulary": 3}', '{"stream": []}', "\xff"])
@pytest.mark.parametrize("name", ["7b.tokenizer.json", "state.json"])
def test_a_file_that_tells_nothing_is_passed_over(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    assert vocabulary_of(tmp_path / "7b.pt") is None


def test_a_vocabulary_that_is_no_text_is_none(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"stream": {"vocabulary": ["a"]}}))
    assert vocabulary_of(tmp_path / "7b.pt") is None
