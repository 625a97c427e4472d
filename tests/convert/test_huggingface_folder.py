"""The folder that bmtrain_2_hgface writes: its config, tokenizer and index, and what it may replace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

from fm9g.convert.bmtrain_to_huggingface import from_scratch, with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.convert.tokenizer.files import install_tokenizer
from fm9g.errors import UserError
from tests.convert.helpers import VOCAB_SIZE, assert_same_bits, edit_json, read_tensors, save, tiny_llama

INDEX = "model.safetensors.index.json"


@pytest.fixture
def checkpoint(tmp_path: Path, llama: Path) -> Path:
    """The tiny LLaMA as a .pt file, its config beside it."""
    huggingface_to_bmtrain(llama, tmp_path / "7b.pt")
    return tmp_path / "7b.pt"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A Hugging Face tokenizer folder whose bos is 5 and whose eos is 7."""
    words = [f"w{i}" for i in range(20)]
    words[5], words[7] = "<start>", "<end>"
    vocab = {word: number for number, word in enumerate(words)}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="w0"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<start>", eos_token="<end>")
    wrapped.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def sentencepiece_model(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the quick brown fox number {i} jumps over the lazy dog" for i in range(50)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sp"), vocab_size=40, minloglevel=2
    )
    return tmp_path / "sp.model"


def test_the_references_index_never_replaces_the_new_one(tmp_path: Path, checkpoint: Path) -> None:
    reference = save(tiny_llama(), tmp_path / "reference", "sharded safetensors")
    with_reference(reference, checkpoint, tmp_path / "shards", max_shard_size="25KB")
    with_reference(reference, checkpoint, tmp_path / "whole")
    assert json.loads((reference / INDEX).read_text()) != json.loads((tmp_path / "shards" / INDEX).read_text())
    assert sorted(path.name for path in (tmp_path / "whole").glob("*safetensors*")) == ["model.safetensors"]
    index = json.loads((tmp_path / "shards" / INDEX).read_text())
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    assert {path.name: set(load_file(path)) for path in files} == {
        name: {key for key, file in index["weight_map"].items() if file == name}
        for name in set(index["weight_map"].values())
    }
    sizes = [sum(tensor.nbytes for tensor in load_file(path).values()) for path in files]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert all(size <= 25000 or len(load_file(path)) == 1 for size, path in zip(sizes, files, strict=True))


def test_companion_files_come_from_the_reference_and_stale_weights_do_not(
    tmp_path: Path, checkpoint: Path, own_llama: Path, tokenizer: Path
) -> None:
    for path in tokenizer.iterdir():
        (own_llama / path.name).write_bytes(path.read_bytes())
    (own_llama / "chat_template.jinja").write_text("{{ messages }}")
    (own_llama / "pytorch_model.bin.index.json").write_text("{}")
    (own_llama / "notes.txt").write_text("not ours")
    edit_json(own_llama / "config.json", custom_key="kept", rope_theta=10000.0, dtype="bfloat16")
    with_reference(own_llama, checkpoint, tmp_path / "back")
    names = {path.name for path in (tmp_path / "back").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"} <= names
    assert not {"pytorch_model.bin.index.json", "notes.txt", INDEX} & names
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["custom_key"] == "kept"
    assert config["torch_dtype"] == config["dtype"] == "float32"  # what the tensors are, not what the reference said
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "back")("w1 w2")["input_ids"][-2:] == [1, 2]


def test_python_files_of_a_folder_are_copied_but_never_run(tmp_path: Path, own_llama: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("configuration_custom.py", "modeling_custom.py", "tokenization_custom.py"):
        (own_llama / name).write_text(code)
    auto_map = {"AutoConfig": "configuration_custom.C", "AutoModelForCausalLM": "modeling_custom.M"}
    edit_json(own_llama / "config.json", auto_map=auto_map)
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    with_reference(own_llama, tmp_path / "7b.pt", tmp_path / "back")
    assert (tmp_path / "back" / "modeling_custom.py").read_text() == code
    assert json.loads((tmp_path / "back" / "config.json").read_text())["auto_map"] == auto_map
    assert not (tmp_path / "ran").exists()


def test_a_model_from_scratch_loads_in_transformers(
    tmp_path: Path, checkpoint: Path, llama: Path, tokenizer: Path
) -> None:
    from_scratch(checkpoint.with_suffix(".json"), tokenizer, checkpoint, tmp_path / "new")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert type(model).__name__ == "LlamaForCausalLM"
    original = transformers.AutoModelForCausalLM.from_pretrained(llama)
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, original(tokens).logits)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (5, 7)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "new").eos_token_id == 7


def test_a_sentencepiece_model_becomes_a_tokenizer_folder(
    tmp_path: Path, checkpoint: Path, sentencepiece_model: Path
) -> None:
    from_scratch(checkpoint.with_suffix(".json"), sentencepiece_model, checkpoint, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert (tmp_path / "new" / "tokenizer.model").read_bytes() == sentencepiece_model.read_bytes()
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id) == (1, 2, 0)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    assert loaded("the lazy fox")["input_ids"] == [1, *pieces.encode("the lazy fox")]


def test_a_mup_model_from_scratch_is_a_minicpm(tmp_path: Path, tokenizer: Path) -> None:
    source = save(tiny_llama(), tmp_path / "source")
    mup = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "tie_word_embeddings": False}
    edit_json(source / "config.json", architectures=["MiniCPMForCausalLM"], model_type="minicpm", **mup)
    config = huggingface_to_bmtrain(source, tmp_path / "7b.pt")
    assert config.scale
    from_scratch(tmp_path / "7b.json", tokenizer, tmp_path / "7b.pt", tmp_path / "new")
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert written["architectures"] == ["MiniCPMForCausalLM"]
    assert {key: written[key] for key in mup} == mup
    assert_same_bits(read_tensors(tmp_path / "new"), read_tensors(source))
    assert huggingface_to_bmtrain(tmp_path / "new", tmp_path / "again.pt") == config


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, checkpoint: Path, tokenizer: Path) -> None:
    fast = json.loads((tokenizer / "tokenizer.json").read_text())
    fast["added_tokens"].append({**fast["added_tokens"][0], "id": VOCAB_SIZE, "content": "<far>"})
    (tokenizer / "tokenizer.json").write_text(json.dumps(fast))
    for path, words in (
        (tokenizer, f"has token id {VOCAB_SIZE}, but the model's vocab_size is {VOCAB_SIZE}"),
        (tmp_path, "no tokenizer in it"),
        (tmp_path / "absent", "no such file or folder"),
        (checkpoint, "not a sentencepiece model"),
    ):
        with pytest.raises(UserError, match=words):
            from_scratch(checkpoint.with_suffix(".json"), path, checkpoint, tmp_path / "new")
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", [1], "not a tokenizer that the tokenizers library can read"),
        ("tokenizer.json", {"model": 3}, "not a tokenizer that the tokenizers library can read"),
        ("tokenizer_config.json", [1], "must hold a JSON object"),
        ("special_tokens_map.json", [1], "must hold a JSON object"),
        ("added_tokens.json", [1], "must hold a JSON object"),
        ("added_tokens.json", {"<x>": "a"}, "must hold the id of each token, a whole number"),
        ("tokenizer_config.json", {"eos_token": ["a"]}, r"eos_token is \['a'\], which is not in tokenizer.json"),
    ],
)
def test_a_damaged_file_of_a_tokenizer_is_named(
    tmp_path: Path, checkpoint: Path, tokenizer: Path, name: str, content: object, says: str
) -> None:
    (tokenizer / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=says) as refused:
        from_scratch(checkpoint.with_suffix(".json"), tokenizer, checkpoint, tmp_path / "new")
    assert "new" not in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_a_damaged_config_beside_tokenizer_model_is_named(
    tmp_path: Path, checkpoint: Path, sentencepiece_model: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sentencepiece_model.rename(folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"folder/tokenizer_config\.json: must hold a JSON object"):
        from_scratch(checkpoint.with_suffix(".json"), folder, checkpoint, tmp_path / "new")


def test_added_tokens_of_no_number_are_passed_over(tmp_path: Path, checkpoint: Path, tokenizer: Path) -> None:
    edit_json(tokenizer / "tokenizer_config.json", added_tokens_decoder={"x": {"content": "<x>"}})
    (tmp_path / "new").mkdir()
    ids = install_tokenizer(tokenizer, tmp_path / "new", VOCAB_SIZE)
    assert ids == {"bos_token_id": 5, "eos_token_id": 7}


def test_ends_that_config_json_alone_tells_are_exported(tmp_path: Path, checkpoint: Path, tokenizer: Path) -> None:
    (tokenizer / "special_tokens_map.json").unlink(missing_ok=True)
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"pad_token": "w0"}))
    (tokenizer / "config.json").write_text(json.dumps({"bos_token_id": 5, "eos_token_id": [7]}))
    from_scratch(checkpoint.with_suffix(".json"), tokenizer, checkpoint, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (5, 7, 0)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<start>", "<end>", "w0")


def test_a_folder_with_vocab_json_alone_is_installed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "vocab.json").write_text('{"a": 0, "<end>": 1}')
    (source / "added_tokens.json").write_text('{"<pad>": 2}')
    (source / "tokenizer_config.json").write_text('{"eos_token": "<end>", "pad_token": {"content": "<pad>"}}')
    assert install_tokenizer(source, target, 3) == {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 2}
    with pytest.raises(UserError, match="has token id 2, but the model's vocab_size is 2"):
        install_tokenizer(source, target, 2)


def test_nothing_is_overwritten_unasked(tmp_path: Path, checkpoint: Path, llama: Path) -> None:
    before = checkpoint.read_bytes()
    for name in ("7b.pt", "7b.json"):
        with pytest.raises(UserError, match=f"{name}: exists already"):
            huggingface_to_bmtrain(llama, tmp_path / "7b.pt")
        checkpoint.unlink(missing_ok=True)
    huggingface_to_bmtrain(llama, tmp_path / "7b.pt", overwrite=True)
    assert checkpoint.read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not empty"):
        with_reference(llama, checkpoint, tmp_path / "full")
    assert (tmp_path / "full" / "config.json").read_text() == "{}"
    (tmp_path / "empty").mkdir()
    with_reference(llama, checkpoint, tmp_path / "empty")
    assert_same_bits(read_tensors(tmp_path / "empty"), load_file(llama / "model.safetensors"))


def test_overwrite_replaces_a_model_folder_whole_and_no_other(tmp_path: Path, checkpoint: Path, llama: Path) -> None:
    target = tmp_path / "target"
    with_reference(llama, checkpoint, target, max_shard_size="30KB")
    with_reference(llama, checkpoint, target, overwrite=True)
    assert [path.name for path in target.glob("*safetensors*")] == ["model.safetensors"]  # no shard of before is left
    (target / "thesis.docx").write_text("years of work")
    with pytest.raises(UserError, match=r"holds more than a model: thesis\.docx"):
        with_reference(llama, checkpoint, target, overwrite=True)
    with pytest.raises(UserError, match="is the reference folder itself"):
        with_reference(llama, checkpoint, llama, overwrite=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_failure_leaves_the_old_folder_and_no_debris(
    tmp_path: Path, checkpoint: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with_reference(llama, checkpoint, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def disk_full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("fm9g.convert.bmtrain_to_huggingface.write_safetensors", disk_full)
    monkeypatch.setattr("fm9g.convert.huggingface_to_bmtrain.write_pt", disk_full)
    with pytest.raises(OSError, match="No space left"):
        with_reference(llama, checkpoint, target, overwrite=True)
    with pytest.raises(OSError, match="No space left"):
        huggingface_to_bmtrain(llama, tmp_path / "new.pt")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"target", "7b.pt", "7b.json", "7b.tokenizer.json"}


def test_of_two_formats_a_note_says_which_is_read(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(llama, tmp_path / "both")
    (tmp_path / "both/pytorch_model.bin").write_bytes(b"of another time")
    huggingface_to_bmtrain(tmp_path / "both", tmp_path / "a.pt")
    huggingface_to_bmtrain(llama, tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert "both: its safetensors are read, and not pytorch_model.bin" in capsys.readouterr().err


def test_a_folder_of_adapters_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds adapters alone: give it as --peft-dir, and the folder of their model"):
        huggingface_to_bmtrain(tmp_path, tmp_path / "a.pt")
