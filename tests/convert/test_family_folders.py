"""Folders of families whose code is their own: more rows, tokenizers that are theirs alone, adapters."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.convert.merge_peft import merge_peft
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import parameters
from fm9g.serve.source import Source, find_source
from fm9g.tensors.fingerprint import fingerprint, fingerprint_of
from tests.convert.family_models import ROWS, source
from tests.convert.helpers import assert_same_bits, edit_json, read_tensors
from tests.support.domains import BASE_TEXTS, sentencepiece_model
from tests.support.tiny_tokenizers import bpe, with_tokens
from tests.support.tiny_tokenizers import save as save_tokenizer


@pytest.mark.parametrize(("row", "name"), [("qwen", "qwen.tiktoken"), ("chatglm2", "tokenizer.model")])
def test_a_tokenizer_that_only_the_folders_own_code_reads_comes_back(row: str, name: str, tmp_path: Path) -> None:
    """Qwen's and GLM-4's: tiktoken's ranks, and Python files, which are copied and never run."""
    source(tmp_path / "source", row)
    ranks = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(90))
    (tmp_path / "source" / name).write_bytes(ranks)
    (tmp_path / "source" / "tokenization_own.py").write_text("raise SystemExit")
    edit_json(tmp_path / "source" / "config.json", auto_map={"AutoConfig": "configuration_own.Config"})
    huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    with_reference(tmp_path / "source", tmp_path / "7b.pt", tmp_path / "back")
    assert (tmp_path / "back" / name).read_bytes() == ranks
    assert (tmp_path / "back" / "tokenization_own.py").read_text() == "raise SystemExit"


def test_a_sentencepiece_model_of_a_folder_with_its_own_code_is_checked_without_it(tmp_path: Path) -> None:
    source(tmp_path / "source", "baichuan 2 13b")
    options = {"vocab_size": 90, "byte_fallback": False}
    sentencepiece_model(tmp_path / "source" / "tokenizer.model", BASE_TEXTS, **options)
    (tmp_path / "source" / "tokenization_own.py").write_text("raise SystemExit")
    told = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "source" / "tokenizer_config.json").write_text(json.dumps(told))
    huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    with_reference(tmp_path / "source", tmp_path / "7b.pt", tmp_path / "back")
    texts = BASE_TEXTS[:20]
    there = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")(texts, add_special_tokens=False)["input_ids"]
    assert there == load_tokenizer(tmp_path / "source").encode_all(texts)


def write_adapter(folder: Path, layer: str, weight: torch.Tensor) -> torch.Tensor:
    """A PEFT folder for one layer, and what it adds to its weight."""
    low, high = torch.rand(2, weight.shape[1]), torch.rand(weight.shape[0], 2)
    folder.mkdir()
    names = {f"base_model.model.{layer}.lora_{name}.weight": value for name, value in (("A", low), ("B", high))}
    save_file(names, folder / "adapter_model.safetensors")
    kind = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [layer.rpartition(".")[2]]}
    (folder / "adapter_config.json").write_text(json.dumps(kind))
    return 2 * high @ low


def values_of(found: Source) -> dict[str, torch.Tensor]:
    return {name: torch.cat(list(tensor.pieces())).view(tensor.shape) for name, tensor in found.tensors.items()}


LAYERS = [
    *(("chatglm2", f"transformer.encoder.layers.0.self_attention.{name}") for name in ("dense", "query_key_value")),
    *(("baichuan 2 13b", f"model.layers.0.self_attn.{name}") for name in ("o_proj", "W_pack")),
    ("baichuan 7b", "model.layers.1.self_attn.W_pack"),
    *(("phi3", f"model.layers.0.{name}") for name in ("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj")),
    ("internlm2", "model.layers.0.attention.wqkv"),
    ("bloom", "transformer.h.0.self_attention.query_key_value"),
    *([("glm, rotated whole", "model.layers.0.self_attn.q_proj")] if "glm" in ROWS else []),
]


@pytest.mark.parametrize(("row", "layer"), LAYERS)
def test_it_is_served_from_its_folder_and_from_our_weights_with_adapters_in_its_names(
    row: str, layer: str, tmp_path: Path
) -> None:
    """As the folder is whose tensor has in it what the adapter adds."""
    source(tmp_path / "folder", row)
    tensors = read_tensors(tmp_path / "folder")
    delta = write_adapter(tmp_path / "adapter", layer, tensors[f"{layer}.weight"])
    huggingface_to_bmtrain(tmp_path / "folder", tmp_path / "7b.pt")
    plain = values_of(find_source(tmp_path / "7b.pt", None))
    assert_same_bits(values_of(find_source(tmp_path / "folder", None)), plain)
    (tmp_path / "changed").mkdir()
    shutil.copy(tmp_path / "folder/config.json", tmp_path / "changed")
    tensors[f"{layer}.weight"] += delta
    save_file(tensors, tmp_path / "changed/model.safetensors", {"format": "pt"})
    expected = values_of(find_source(tmp_path / "changed", None))
    assert any(not torch.equal(plain[name], value) for name, value in expected.items())
    for model in ("folder", "7b.pt"):
        found = values_of(find_source(tmp_path / model, tmp_path / "adapter"))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, msg=f"{model}: {name}")


@pytest.mark.parametrize("row", ["chatglm2", "mixtral"])
def test_our_own_adapters_beside_a_folder_are_known_to_be_for_it(row: str, tmp_path: Path) -> None:
    """By the ends of its tensors, whatever they are fused from."""
    source(tmp_path / "folder", row)
    config = huggingface_to_bmtrain(tmp_path / "folder", tmp_path / "7b.pt")
    tensors = find_source(tmp_path / "folder", None).tensors
    assert fingerprint_of(tensors) == fingerprint(tmp_path / "7b.pt")
    assert config.num_layers == 2


def test_weights_that_no_other_code_knows_are_served(tmp_path: Path) -> None:
    """Layer norms with rotary embeddings: of no architecture of Hugging Face."""
    config = ModelConfig(61, 32, 4, 2, 48, norm="layer", dtype="float32")
    tensors = {parameter.name: torch.randn(parameter.shape) for parameter in parameters(config)}
    torch.save(tensors, tmp_path / "own.pt")
    config.to_json(tmp_path / "own.json")
    assert_same_bits(values_of(find_source(tmp_path / "own.pt", None)), tensors)


def test_a_reference_whose_tokenizer_is_read_in_another_form_is_refused_first(tmp_path: Path) -> None:
    source(tmp_path / "source", "chatglm2")
    huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    sentencepiece_model(tmp_path / "source" / "tokenizer.model", BASE_TEXTS, vocab_size=90, byte_fallback=False)
    (tmp_path / "source/tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}')
    with pytest.raises(UserError, match=r"tokenizer.json.*; give the folder that it writes as --tokenizer"):
        with_reference(tmp_path / "source", tmp_path / "missing.pt", tmp_path / "back")


@pytest.mark.parametrize(
    ("row", "layer"),
    [
        ("chatglm2", "transformer.encoder.layers.0.self_attention.dense"),
        ("internlm2", "model.layers.0.attention.wo"),
        ("qwen", "transformer.h.1.mlp.c_proj"),
    ],
)
def test_an_adapter_is_merged_and_rows_are_added_in_the_familys_own_names(row: str, layer: str, tmp_path: Path) -> None:
    source(tmp_path / "base", row)
    with_tokens(tmp_path / "tokenizer", [f"<{i}>" for i in range(90)], ["a b c"] * 9)
    tokens = load_tokenizer(tmp_path / "tokenizer").vocab_size
    before = read_tensors(tmp_path / "base")
    delta = write_adapter(tmp_path / "adapter", layer, before[f"{layer}.weight"])
    merge_peft(tmp_path / "base", tmp_path / "tokenizer", tmp_path / "adapter", tmp_path / "merged", True, False)
    after = read_tensors(tmp_path / "merged")
    torch.testing.assert_close(after[f"{layer}.weight"], before[f"{layer}.weight"] + delta)
    config = huggingface_to_bmtrain(tmp_path / "merged", tmp_path / "7b.pt")
    assert config.vocab_size == tokens > 96


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ("chatglm2", {"padded_vocab_size": 100, "vocab_size": 100}),
        ("baichuan 2 13b", {"vocab_size": 100, "norm_head": True}),
        ("qwen", {"vocab_size": 100}),
    ],
)
def test_more_rows_are_told_in_the_familys_own_keys(row: str, keys: dict[str, Any], tmp_path: Path) -> None:
    source(tmp_path / "source", row)
    config = huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    weights = torch.load(tmp_path / "7b.pt", weights_only=True)
    for name in ("input_embedding.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], weights[name][:4]])
    (tmp_path / "7b.json").unlink()
    torch.save(weights, tmp_path / "7b.pt")
    with pytest.raises(UserError, match=f"has 100 rows of embeddings, {next(iter(keys))} is 96 in "):
        with_reference(tmp_path / "source", tmp_path / "7b.pt", tmp_path / "back")
    save_tokenizer(bpe(), tmp_path / "tokenizer")
    with_reference(tmp_path / "source", tmp_path / "7b.pt", tmp_path / "back", tokenizer=tmp_path / "tokenizer")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("source", "back"))
    assert {key: after[key] for key in keys} == keys
    assert after.keys() == before.keys() | {"dtype", "torch_dtype"} | keys.keys()
    again = huggingface_to_bmtrain(tmp_path / "back", tmp_path / "again.pt")
    assert again == dataclasses.replace(config, vocab_size=100)
