"""Tensors that are laid out otherwise than ours: several in one, and rows in another order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from fm9g.convert import families, hf_config
from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.families import llama
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.convert.layouts import Layout, Layouts
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.tensors import lazy
from fm9g.tensors.lazy import LazyTensor
from fm9g.tensors.readers import read_pt, read_safetensors
from fm9g.tensors.rows import rows_of
from tests.convert.helpers import assert_same_bits, edit_json, read_tensors, save, tiny_llama

QKV = tuple(f"self_att.self_attention.project_{name}" for name in "qkv")


def interleaved(config: ModelConfig) -> np.ndarray:
    """Of the rows of q, k and v: head by head, the first half of each between the second, as some rotate them."""
    heads = np.arange((config.num_heads + 2 * config.num_kv_heads) * config.dim_head).reshape(-1, config.dim_head)
    halves = heads.reshape(len(heads), 2, -1)
    return halves.transpose(0, 2, 1).reshape(-1)


def one_by_one(config: ModelConfig) -> np.ndarray:
    """The rows of the gate and of the other matrix in turn."""
    return np.arange(2 * config.dim_ff).reshape(2, -1).T.reshape(-1)


FUSED = Layouts(
    ends=llama.LAYOUTS.ends,
    layers="transformer.h.",
    block=(
        *(layout for layout in llama.LAYOUTS.block if layout.ours[0] not in QKV and "w_in" not in layout.ours[0]),
        Layout(("self_attn.W_pack",), QKV, interleaved),
        Layout(("mlp.gate_up",), ("ffn.ffn.w_in.w_0", "ffn.ffn.w_in.w_1"), one_by_one),
    ),
)


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LLaMA whose queries, keys and values are one tensor, as are its gate and its up-projection."""
    fused = llama.FAMILY._replace(architecture="FusedForCausalLM", layouts=FUSED)
    for module in (families, hf_config):
        monkeypatch.setattr(module, "FAMILIES", (*families.FAMILIES, fused))


def fused_folder(source: Path, folder: Path, **changes: torch.Tensor) -> Path:
    """The LLaMA in `source`, fused by hand: row by row."""
    tensors, made = read_tensors(source), {}
    config = json.loads((source / "config.json").read_text())
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    for name, tensor in tensors.items():
        name = name.replace("model.layers.", "transformer.h.")
        made[name] = tensor
    for i in range(config["num_hidden_layers"]):
        start = f"transformer.h.{i}."
        q, k, v, gate, up = (
            made.pop(f"{start}{name}.weight")
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
        )
        heads = torch.cat([q, k, v]).split(2 * half)
        rows = [row for head in heads for pair in zip(head[:half], head[half:], strict=True) for row in pair]
        made[f"{start}self_attn.W_pack.weight"] = torch.stack(rows)
        pairs = [row for pair in zip(gate, up, strict=True) for row in pair]
        made[f"{start}mlp.gate_up.weight"] = torch.stack(pairs)
    folder.mkdir()
    save_file({**made, **changes}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["FusedForCausalLM"]}))
    for file in source.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tiny_llama(), tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.usefixtures("family")
def test_fused_tensors_become_those_of_the_same_llama_and_come_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "PIECE_BYTES", 1000)  # a few rows: what lies across pieces comes together too
    fused = fused_folder(source, tmp_path / "fused")
    huggingface_to_bmtrain(source, tmp_path / "a.pt")
    huggingface_to_bmtrain(fused, tmp_path / "b.pt")
    expected, found = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert_same_bits(found, expected)
    with_reference(fused, tmp_path / "b.pt", tmp_path / "back")
    assert_same_bits(read_tensors(tmp_path / "back"), read_tensors(fused))


@pytest.mark.usefixtures("family")
def test_a_fused_tensor_of_another_shape_is_named(source: Path, tmp_path: Path) -> None:
    wrong = torch.zeros(100, 64)
    fused = fused_folder(source, tmp_path / "fused", **{"transformer.h.0.self_attn.W_pack.weight": wrong})
    with pytest.raises(UserError, match=r"transformer\.h\.0\.self_attn\.W_pack\.weight: shape \[100, 64\], expected"):
        huggingface_to_bmtrain(fused, tmp_path / "b.pt")


@pytest.mark.usefixtures("family")
def test_tensors_that_become_one_have_one_dtype(source: Path, tmp_path: Path) -> None:
    fused = fused_folder(source, tmp_path / "fused")
    huggingface_to_bmtrain(fused, tmp_path / "b.pt")
    weights = torch.load(tmp_path / "b.pt", weights_only=True)
    name = f"encoder.layers.0.{QKV[1]}.weight"
    torch.save({**weights, name: weights[name].bfloat16()}, tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"project_q\.weight is F32, .*project_k\.weight BF16: they become one tensor"):
        with_reference(fused, tmp_path / "b.pt", tmp_path / "back")
    with_reference(fused, tmp_path / "b.pt", tmp_path / "rounded", dtype="BF16")


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**shape, num_local_experts=3))
    return save(model, tmp_path / "mixtral")  # type: ignore[arg-type]


def test_experts_are_stacked_row_after_row(mixtral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few rows at a time, over the ends of tensors."""
    monkeypatch.setattr(lazy, "PIECE_BYTES", 7 * 64 * 4)
    huggingface_to_bmtrain(mixtral, tmp_path / "a.pt")
    ours, theirs = torch.load(tmp_path / "a.pt", weights_only=True), read_tensors(mixtral)
    for name, other in (("w_in.w_0", "w1"), ("w_in.w_1", "w3"), ("w_out", "w2")):
        stacked = [theirs[f"model.layers.1.block_sparse_moe.experts.{number}.{other}.weight"] for number in range(3)]
        assert torch.equal(ours[f"encoder.layers.1.ffn.ffn.experts.{name}.weight"], torch.cat(stacked))
    with_reference(mixtral, tmp_path / "a.pt", tmp_path / "back")
    assert_same_bits(read_tensors(tmp_path / "back"), theirs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_local_experts": 4}, r"num_experts or num_local_experts \(num_experts\) is 4 in the config, 3 in .*gate"),
        ({"intermediate_size": 72}, r"of Mixtral intermediate_size \(dim_expert\) is 72 in the config, 80 in .*0\.w1"),
    ],
)
def test_experts_of_another_number_or_size_are_told(
    mixtral: Path, tmp_path: Path, changes: dict[str, int], words: str
) -> None:
    edit_json(mixtral / "config.json", **changes)
    with pytest.raises(UserError, match=words):
        huggingface_to_bmtrain(mixtral, tmp_path / "a.pt")


def test_an_expert_that_is_missing_is_named(mixtral: Path, tmp_path: Path) -> None:
    tensors = read_tensors(mixtral)
    del tensors["model.layers.0.block_sparse_moe.experts.2.w2.weight"]
    save_file(tensors, mixtral / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"\(1 problems\):\n  .*layers\.0\..*experts\.2\.w2\.weight: missing$"):
        huggingface_to_bmtrain(mixtral, tmp_path / "a.pt")


class Counted:
    """Tensors whose reads are counted in elements."""

    def __init__(self, tensors: list[LazyTensor]) -> None:
        self.most, self.whole = 0, 0
        self.tensors = [
            LazyTensor(tensor.dtype, tensor.shape, tensor.pieces, self._counting(tensor)) for tensor in tensors
        ]

    def _counting(self, tensor: LazyTensor) -> Any:
        def read_rows(start: int, stop: int) -> torch.Tensor:
            assert tensor.read_rows is not None
            rows = tensor.read_rows(start, stop)
            self.most, self.whole = max(self.most, rows.numel()), self.whole + rows.numel()
            return rows

        return read_rows


ORDERS = {
    "as they are": lambda rows: np.arange(rows),
    "halves between each other": lambda rows: np.arange(rows).reshape(-1, 2, 32).transpose(0, 2, 1).reshape(-1),
    "every third head": lambda rows: np.arange(rows).reshape(-1, 3, 64).transpose(1, 0, 2).reshape(-1),
    "backwards": lambda rows: np.arange(rows)[::-1],
    "at random": lambda rows: np.random.default_rng(1).permutation(rows),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_rows_in_any_order_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, kind: str
) -> None:
    """1,536 rows of 32 elements, pieces of 64 rows: never more than 8 pieces are read at once, nor anything twice."""
    monkeypatch.setattr(lazy, "PIECE_BYTES", 64 * 32 * 4)
    parts = [torch.randn(rows, 32) for rows in (768, 256, 512)]
    named = {str(i): part for i, part in enumerate(parts)}
    if kind == "pt":
        torch.save(named, tmp_path / "x")
        read = read_pt(tmp_path / "x")
    else:
        save_file(named, tmp_path / "x")
        read = read_safetensors(tmp_path / "x")
    counted, index = Counted([read[name] for name in named]), ORDERS[order](1536)
    found = rows_of(counted.tensors, index)
    assert found.shape == (1536, 32)
    pieces = list(found.pieces())
    assert torch.equal(torch.cat(pieces).view(1536, 32), torch.cat(parts)[torch.from_numpy(index.copy())])
    assert max(piece.numel() for piece in pieces) == 64 * 32
    assert counted.most <= 8 * 64 * 32
    if order != "at random":
        assert counted.whole <= 1.1 * 1536 * 32
