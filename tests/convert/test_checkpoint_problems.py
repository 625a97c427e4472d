"""What does not match is refused: every problem named in one error, and nothing written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from fm9g.tensors.readers import read_huggingface_folder, read_pt
from tests.convert.helpers import edit_json, read_file, save, save_bin, tiny_llama

WEIGHTS = "model.safetensors"


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors of the folder's one safetensors file; None removes. Dots in names are written __."""
    tensors = read_file(folder / WEIGHTS)
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def failure(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        huggingface_to_bmtrain(folder, folder / "out.pt")
    assert not list(folder.glob("*out*"))
    return str(caught.value)


def test_one_error_lists_missing_unknown_and_misshapen_tensors(own_llama: Path) -> None:
    change_tensors(
        own_llama,
        model__norm__weight=None,
        model__layers__1__mlp__experts__weight=torch.zeros(2),
        model__layers__2__self_attn__o_proj__weight=torch.zeros(64, 32),
        model__layers__0__mlp__up_proj__weight=torch.zeros(80, 64).to(torch.int8),
    )
    message = failure(own_llama)
    assert "model.norm.weight: missing" in message
    assert "model.layers.1.mlp.experts.weight: not a tensor of this model" in message
    assert "model.layers.2.self_attn.o_proj.weight: shape [64, 32], expected [64, 64]" in message
    assert "model.layers.0.mlp.up_proj.weight: dtype I8" in message


def test_a_long_list_is_cut_and_counted(own_llama: Path) -> None:
    change_tensors(own_llama, **{f"extra{i}": torch.zeros(1) for i in range(33)})
    message = failure(own_llama)
    assert "(33 problems)" in message
    assert message.count("not a tensor of this model") == 20
    assert message.endswith("... and 13 more")


def test_buffers_that_the_config_implies_are_ignored(own_llama: Path) -> None:
    change_tensors(own_llama, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(8))
    huggingface_to_bmtrain(own_llama, own_llama / "out.pt")
    assert len(read_pt(own_llama / "out.pt")) == 3 + 3 * 9


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vocab_size", 100, "vocab_size is 100 in the config, 96 in model.embed_tokens.weight"),
        ("hidden_size", 96, "hidden_size (dim_model) is 96 in the config, 64 in"),
        ("intermediate_size", 96, "intermediate_size (dim_ff) is 96 in the config, 80 in"),
        ("num_hidden_layers", 2, "num_hidden_layers (num_layers) is 2 in the config, 3 in the checkpoint"),
        ("num_hidden_layers", 4, "num_hidden_layers (num_layers) is 4 in the config, 3 in the checkpoint"),
        ("num_key_value_heads", 4, "num_key_value_heads * head_dim (num_kv_heads * dim_head) is 64 in the config, 32"),
        ("head_dim", 12, "num_attention_heads * head_dim (num_heads * dim_head) is 48 in the config, 64 in"),
    ],
)
def test_config_fields_are_checked_against_the_tensors(own_llama: Path, key: str, value: int, words: str) -> None:
    edit_json(own_llama / "config.json", **{key: value})
    assert words in failure(own_llama)


def test_the_same_checks_hold_for_a_pt_file(tmp_path: Path, llama: Path) -> None:
    huggingface_to_bmtrain(llama, tmp_path / "7b.pt")
    tensors = torch.load(tmp_path / "7b.pt", weights_only=True)
    del tensors["encoder.output_layernorm.weight"]
    tensors["lora_A"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "7b.pt")
    with pytest.raises(UserError) as caught:
        with_reference(llama, tmp_path / "7b.pt", tmp_path / "back")
    assert "encoder.output_layernorm.weight: missing" in str(caught.value)
    assert "lora_A: not a tensor of this model" in str(caught.value)
    assert not (tmp_path / "back").exists()


def test_a_config_beside_the_pt_file_that_contradicts_the_reference_is_refused(tmp_path: Path, own_llama: Path) -> None:
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    edit_json(tmp_path / "7b.json", base=500000.0)
    with pytest.raises(UserError, match=r"describe different models: RoPE base 500000\.0 and 10000\.0"):
        with_reference(own_llama, tmp_path / "7b.pt", tmp_path / "back")


def test_an_index_must_describe_its_shards(tmp_path: Path) -> None:
    folder = save(tiny_llama(), tmp_path / "sharded", "sharded safetensors")
    index = folder / "model.safetensors.index.json"
    right = json.loads(index.read_text())["weight_map"]
    for wrong, words in (
        ({**right, "model.extra.weight": min(right.values())}, "does not describe its files: model.extra.weight"),
        ({**right, "lm_head.weight": "model-00010-of-00010.safetensors"}, "names model-00010-of-00010.safetensors"),
        ({**right, "lm_head.weight": "../elsewhere.safetensors"}, "not the name of a file in the same folder"),
        ({}, "no weight_map"),
    ):
        edit_json(index, weight_map=wrong)
        assert words in failure(folder)
    index.unlink()  # without one, every shard is read
    assert read_huggingface_folder(folder).keys() == right.keys()


@pytest.mark.parametrize("index", [True, False])
def test_two_checkpoints_in_one_folder_are_refused(own_llama: Path, tmp_path: Path, index: bool) -> None:
    """transformers would read the single file; who has both may mean the other."""
    folder = save(tiny_llama(), tmp_path / "both", "sharded safetensors")
    (folder / WEIGHTS).write_bytes((own_llama / WEIGHTS).read_bytes())
    other = folder / "model.safetensors.index.json"
    if not index:
        other.unlink()
        other = min(folder.glob("model-*"))
    assert f"holds both model.safetensors and {other.name}: two checkpoints" in failure(folder)


def test_an_index_of_the_single_file_is_no_second_checkpoint(own_llama: Path) -> None:
    expected = read_huggingface_folder(own_llama).keys()
    weight_map = dict.fromkeys(expected, WEIGHTS)
    (own_llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_huggingface_folder(own_llama).keys() == expected


def test_files_of_other_names_are_not_the_checkpoint(own_llama: Path) -> None:
    expected = read_huggingface_folder(own_llama).keys()
    for name in ("model_old.safetensors", "model-copy.safetensors", "pytorch_model_old.bin"):
        (own_llama / name).write_bytes(b"no checkpoint")
    assert read_huggingface_folder(own_llama).keys() == expected


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_safetensors_file_cut_short_is_refused(own_llama: Path, keep: int) -> None:
    contents = (own_llama / WEIGHTS).read_bytes()
    (own_llama / WEIGHTS).write_bytes(contents[:keep])
    assert "cut short" in failure(own_llama)


def test_a_safetensors_header_that_lies_is_refused(own_llama: Path) -> None:
    header = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode()
    (own_llama / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    assert "lm_head.weight does not lie in the file as its header says" in failure(own_llama)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([], "its header is a list, not an object"),
        ({"a": 5}, "the header's entry for 'a' is malformed: 5"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "entry for 'a' is malformed"),
        ({"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}, "entry for 'a' is malformed"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "entry for 'a' is malformed"),
        ({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, "entry for 'a' is malformed"),
        ({"a": {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 4]}}, "entry for 'a' is malformed"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "entry for 'a' is malformed"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4.0]}}, "entry for 'a' is malformed"),
        (
            {name: {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]} for name in "ab"},
            "b does not lie in the file",
        ),
        ({"a": {"dtype": "F32", "shape": [8], "data_offsets": [32, 64]}}, "a does not lie in the file"),
        ({"a": {"dtype": "I8", "shape": [8], "data_offsets": [8, 0]}}, "a does not lie in the file"),
        ({"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}, "32 bytes at its end are of no tensor"),
    ],
)
def test_a_safetensors_header_that_no_file_can_have_is_refused(own_llama: Path, header: object, words: str) -> None:
    encoded = json.dumps(header).encode()
    (own_llama / WEIGHTS).write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(64))
    assert words in failure(own_llama)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float64, "dtype F64 (convert it to float32 first)"),
        (torch.float8_e4m3fn, "dtype F8_E4M3 (of a quantized checkpoint"),
        (torch.uint8, "dtype U8 (of a quantized checkpoint"),
        (torch.int64, "dtype I64 (weights are float32, float16 or bfloat16)"),
        (torch.bool, "dtype BOOL (weights are float32, float16 or bfloat16)"),
    ],
)
def test_formats_that_are_no_weights_are_named_right(own_llama: Path, dtype: torch.dtype, words: str) -> None:
    change_tensors(own_llama, model__norm__weight=torch.ones(64).to(dtype))
    assert f"model.norm.weight: {words}" in failure(own_llama)


def test_torch_files_of_tensors_that_are_not_plain_are_refused(own_llama: Path) -> None:
    (own_llama / WEIGHTS).unlink()
    for tensor, words in (
        (torch.eye(3).to_sparse(), "weight is a sparse tensor"),
        (torch.empty(3, device="meta"), "weight is a meta tensor"),
    ):
        torch.save({"weight": tensor}, own_llama / "pytorch_model.bin")
        assert words in failure(own_llama)


def test_a_folder_without_weights_or_config_says_so(own_llama: Path) -> None:
    (own_llama / WEIGHTS).unlink()
    assert "no weights found" in failure(own_llama)
    (own_llama / "config.json").unlink()
    assert "config.json: no such file" in failure(own_llama)


class RunsCode:
    """Pickles as a call of open(path, "w")."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, own_llama: Path) -> None:
    (own_llama / WEIGHTS).unlink()
    torch.save({"lm_head.weight": RunsCode(tmp_path / "ran")}, own_llama / "pytorch_model.bin")
    assert "code in a file is never run" in failure(own_llama)
    assert not (tmp_path / "ran").exists()


def test_torch_files_that_are_not_a_dict_of_tensors_are_refused(own_llama: Path) -> None:
    (own_llama / WEIGHTS).unlink()
    path = own_llama / "pytorch_model.bin"
    for contents, words in (
        ([torch.zeros(1)], "found a list"),
        ({"model": {"weight": torch.zeros(1)}}, "'model' is a dict"),
    ):
        torch.save(contents, path)
        assert words in failure(own_llama)
    torch.save({"weight": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    assert "not a zip file written by torch.save" in failure(own_llama)


def test_a_tensor_that_is_stored_negated_is_read_with_its_sign(tmp_path: Path, own_llama: Path) -> None:
    tensors = read_file(own_llama / WEIGHTS)
    (own_llama / WEIGHTS).unlink()
    down = "model.layers.0.mlp.down_proj.weight"
    save_bin({**tensors, down: torch._neg_view(-tensors[down])}, own_llama, shards=1)
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    ours = torch.load(tmp_path / "7b.pt", weights_only=True)
    assert torch.equal(ours["encoder.layers.0.ffn.ffn.w_out.weight"], tensors[down])


def test_views_in_a_bin_file_are_written_in_row_major_order(tmp_path: Path, own_llama: Path) -> None:
    tensors = read_file(own_llama / WEIGHTS)
    (own_llama / WEIGHTS).unlink()
    down = "model.layers.0.mlp.down_proj.weight"
    save_bin({**tensors, down: tensors[down].t().contiguous().t()}, own_llama, shards=1)
    huggingface_to_bmtrain(own_llama, tmp_path / "7b.pt")
    ours = torch.load(tmp_path / "7b.pt", weights_only=True)
    assert torch.equal(ours["encoder.layers.0.ffn.ffn.w_out.weight"], tensors[down])
