"""Tiny random LLaMAs, saved by transformers in every layout that the Hub knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from fm9g.convert.families import FAMILIES
from fm9g.convert.layouts import converted, groups
from fm9g.model.config import ModelConfig
from fm9g.tensors.lazy import held

VOCAB_SIZE = 96
# as from_pretrained of this transformers calls it
IN_FLOAT32 = {"dtype" if transformers.__version__ >= "4.56" else "torch_dtype": torch.float32}

# Parts of names, theirs and ours, as REFERENCE.md lists them: written out here, not taken from the code under test.
LAYER_NAMES = {
    "model.embed_tokens.": "input_embedding.",
    "model.norm.": "encoder.output_layernorm.",
    "model.layers.": "encoder.layers.",
    ".input_layernorm.": ".self_att.layernorm_before_attention.",
    ".self_attn.q_proj.": ".self_att.self_attention.project_q.",
    ".self_attn.k_proj.": ".self_att.self_attention.project_k.",
    ".self_attn.v_proj.": ".self_att.self_attention.project_v.",
    ".self_attn.o_proj.": ".self_att.self_attention.attention_out.",
    ".post_attention_layernorm.": ".ffn.layernorm_before_ffn.",
    ".mlp.gate_proj.": ".ffn.ffn.w_in.w_0.",
    ".mlp.up_proj.": ".ffn.ffn.w_in.w_1.",
    ".mlp.down_proj.": ".ffn.ffn.w_out.",
}


def tiny_llama(dtype: torch.dtype = torch.float32, **settings: Any) -> transformers.LlamaForCausalLM:
    """Three layers and grouped queries, unless `settings` say otherwise."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 64,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.3,
            **settings,
        }
    )
    return transformers.LlamaForCausalLM(config).to(dtype).eval()  # type: ignore[arg-type]


def save(model: transformers.LlamaForCausalLM, folder: Path, layout: str = "safetensors") -> Path:
    """Save as "safetensors", "sharded safetensors", "bin" or "sharded bin"."""
    size = "40KB" if layout == "sharded safetensors" else "5GB"
    model.save_pretrained(folder, max_shard_size=size)
    if layout.endswith("bin"):
        tensors = dict(model.state_dict())
        if model.config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        (folder / "model.safetensors").unlink()
        save_bin(tensors, folder, shards=3 if layout == "sharded bin" else 1)
    return folder


def save_bin(tensors: dict[str, torch.Tensor], folder: Path, shards: int) -> None:
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    weight_map = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {key: tensors[key] for key in list(tensors)[number::shards]}
        torch.save(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def read_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, in memory: some versions map them, and the file may be written anew."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder of safetensors."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in read_file(path).items()}


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object; a value of ... removes the key."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def in_their_names(tensors: dict[str, torch.Tensor], config: ModelConfig, model: Any) -> dict[str, torch.Tensor]:
    """Tensors of our decoder as the files of transformers' model would have them."""
    architecture = getattr(model, "architecture", type(model).__name__)  # a reference is told apart by its own
    layouts = next(family for family in FAMILIES if family.architecture == architecture).layouts
    lazy = {name: held(tensor) for name, tensor in tensors.items()}
    found = converted(groups(config, layouts), lazy, "ours")
    return {name: torch.cat(list(tensor.pieces())).view(tensor.shape) for name, tensor in found}


def gradients_of_theirs(model: Any) -> dict[str, torch.Tensor]:
    """By the names of tensors in files, where each expert has its own; transformers has them in two parameters from 5
    on, and there Mixtral's under another name."""
    mixtral, found = "Mixtral" in type(model).__name__, {}
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    for name, value in model.named_parameters():
        name = name.replace(".mlp.", ".block_sparse_moe.") if mixtral else name
        stem, _, end = name.rpartition(".")
        if end not in ("gate_up_proj", "down_proj"):
            found[name] = torch.zeros_like(value) if value.grad is None else value.grad  # an expert without tokens
            continue
        for number, gradient in enumerate(value.grad):
            parts = zip((gate, up), gradient.chunk(2), strict=True) if end == "gate_up_proj" else [(down, gradient)]
            found |= {f"{stem}.{number}.{projection}.weight": part for projection, part in parts}
    return found
