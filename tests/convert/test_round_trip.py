"""Hugging Face -> .pt -> Hugging Face: every bit comes back, whatever the layout and dtype."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from tests.convert.helpers import LAYER_NAMES, assert_same_bits, edit_json, read_file, read_tensors, save, tiny_llama

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


def logits(folder: Path) -> torch.Tensor:
    model = transformers.LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        return model.eval()(torch.arange(40)[None] % 7).logits


@pytest.mark.parametrize("layout", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_and_dtype_comes_back_bit_for_bit(tmp_path: Path, layout: str, dtype: str) -> None:
    model = tiny_llama(DTYPES[dtype])
    source = save(model, tmp_path / "source", layout)
    config = huggingface_to_bmtrain(source, tmp_path / "7b.pt")
    with_reference(source, tmp_path / "7b.pt", tmp_path / "back", max_shard_size="30KB")
    assert_same_bits(read_tensors(tmp_path / "back"), dict(model.state_dict()))
    assert config.dtype == dtype
    assert torch.equal(logits(tmp_path / "back"), logits(source))


@pytest.mark.parametrize("layout", ["safetensors", "sharded bin"])
def test_tied_embeddings_have_no_head_on_either_side(tmp_path: Path, layout: str) -> None:
    source = save(tiny_llama(tie_word_embeddings=True), tmp_path / "source", layout)
    assert huggingface_to_bmtrain(source, tmp_path / "7b.pt").tie_lm_head
    assert "lm_head.weight" not in torch.load(tmp_path / "7b.pt", weights_only=True)
    with_reference(source, tmp_path / "7b.pt", tmp_path / "back")
    assert "lm_head.weight" not in read_tensors(tmp_path / "back")
    assert torch.equal(logits(tmp_path / "back"), logits(source))


def test_a_stored_head_that_equals_the_tied_embedding_is_dropped_and_one_that_differs_refused(tmp_path: Path) -> None:
    source = save(tiny_llama(tie_word_embeddings=True), tmp_path / "source")
    tensors = read_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    huggingface_to_bmtrain(source, tmp_path / "equal.pt")
    assert "lm_head.weight" not in torch.load(tmp_path / "equal.pt", weights_only=True)
    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lm_head\.weight: differs from model\.embed_tokens\.weight"):
        huggingface_to_bmtrain(source, tmp_path / "differs.pt")
    assert not (tmp_path / "differs.pt").exists()


def test_special_values_and_mixed_dtypes_survive_and_are_named(
    tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tiny_llama(), tmp_path / "source")
    tensors = read_file(source / "model.safetensors")
    payload = torch.tensor([0x7FC12345, 0x7F812345, -0x80000000, 1, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    tensors["model.layers.0.mlp.up_proj.weight"][0, :5] = payload  # NaNs with payloads, -0.0, subnormals
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].bfloat16()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    huggingface_to_bmtrain(source, tmp_path / "7b.pt")
    with_reference(source, tmp_path / "7b.pt", tmp_path / "back")
    assert_same_bits(read_tensors(tmp_path / "back"), tensors)
    warnings = capsys.readouterr().err
    for output, name in (("7b.pt", "encoder.layers.0.ffn.ffn.w_in.w_1"), ("back", "model.layers.0.mlp.up_proj")):
        assert f"{output}: kept as they are, but no weights to train from: {name}.weight (NaN)\n" in warnings


def test_the_pt_file_is_what_torch_save_would_write(tmp_path: Path, llama: Path) -> None:
    huggingface_to_bmtrain(llama, tmp_path / "7b.pt")
    loaded = torch.load(tmp_path / "7b.pt", weights_only=True)
    mapped = torch.load(tmp_path / "7b.pt", weights_only=True, mmap=True)
    theirs = read_file(llama / "model.safetensors")
    expected = {}
    for name, tensor in theirs.items():
        for old, new in LAYER_NAMES.items():
            name = name.replace(old, new)
        expected[name] = tensor
    assert_same_bits(loaded, expected)
    assert_same_bits(mapped, expected)
    assert all(tensor.data_ptr() % 64 == 0 and tensor.is_contiguous() for tensor in mapped.values())
    assert zipfile.ZipFile(tmp_path / "7b.pt").testzip() is None  # checksums, which torch.load does not all check


def test_the_config_beside_the_pt_file_describes_it(tmp_path: Path, llama: Path) -> None:
    config = huggingface_to_bmtrain(llama, tmp_path / "models" / "7b.pt")
    assert ModelConfig.from_json(tmp_path / "models" / "7b.json") == config
    assert (config.vocab_size, config.dim_model, config.dim_ff, config.num_layers) == (96, 64, 80, 3)
    assert (config.num_heads, config.num_kv_heads, config.dim_head) == (4, 2, 16)
    assert (config.eps, config.base, config.max_length, config.scale) == (1e-5, 10000.0, 64, False)


def test_a_head_dim_that_is_not_the_width_over_the_heads(tmp_path: Path, own_llama: Path) -> None:
    tensors = read_file(own_llama / "model.safetensors")
    for name in [name for name in tensors if "_proj" in name and "self_attn" in name]:
        rows, columns = tensors[name].shape
        shape = (rows, 96) if "o_proj" in name else (rows * 3 // 2, columns)  # 4 heads of 24, not of 16
        tensors[name] = torch.randn(shape)
    save_file(tensors, own_llama / "model.safetensors", {"format": "pt"})
    edit_json(own_llama / "config.json", head_dim=24)
    assert huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt").dim_head == 24
    with_reference(own_llama, tmp_path / "7b.pt", tmp_path / "back")
    assert_same_bits(read_tensors(tmp_path / "back"), tensors)


def test_dtype_rounds_as_torch_does(tmp_path: Path, llama: Path) -> None:
    config = huggingface_to_bmtrain(llama, tmp_path / "7b.pt", dtype="BF16")
    assert config.dtype == "bf16"
    head = torch.load(tmp_path / "7b.pt", weights_only=True)["lm_head.weight"]
    assert torch.equal(head, read_file(llama / "model.safetensors")["lm_head.weight"].bfloat16())
    with_reference(llama, tmp_path / "7b.pt", tmp_path / "back", dtype="F16")
    loaded = transformers.AutoConfig.from_pretrained(tmp_path / "back")
    assert {tensor.dtype for tensor in read_tensors(tmp_path / "back").values()} == {torch.float16}
    assert torch.float16 in (getattr(loaded, "dtype", None), getattr(loaded, "torch_dtype", None))


def test_a_value_that_overflows_the_dtype_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny_llama()
    model.model.norm.weight.data[3] = 1e6
    source = save(model, tmp_path / "source")
    with pytest.raises(UserError, match=r"model\.norm\.weight: values beyond the range of float16"):
        huggingface_to_bmtrain(source, tmp_path / "7b.pt", dtype="F16")
    assert not list(tmp_path.glob("*7b*"))
