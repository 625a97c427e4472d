"""config.json <-> ModelConfig, in every spelling that transformers has had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from fm9g.convert.hf_config import huggingface_config, model_config_from_huggingface, with_checkpoint_facts
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
}
MINICPM = {
    **LLAMA,
    "architectures": ["MiniCPMForCausalLM"],
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 16,
}


def read(**changes: Any) -> ModelConfig:
    return model_config_from_huggingface({**LLAMA, **changes}, "config.json")


def loaded_by_transformers(values: dict[str, Any], folder: Path) -> transformers.PretrainedConfig:
    (folder / "config.json").write_text(json.dumps(values))
    return transformers.AutoConfig.from_pretrained(folder)


def rope_of(config: transformers.PretrainedConfig) -> dict[str, Any]:
    """RoPE settings as transformers' own modelling code reads them, in version 4 and in 5."""
    if getattr(config, "standardize_rope_params", None):
        return config.rope_parameters
    return {"rope_theta": config.rope_theta, **(config.rope_scaling or {"rope_type": "default"})}


def test_absent_keys_have_the_values_that_transformers_gives_them() -> None:
    theirs, ours = transformers.LlamaConfig(), read()
    assert ours.eps == theirs.rms_norm_eps
    assert ours.init_std == theirs.initializer_range
    assert ours.activate_fn == theirs.hidden_act
    assert ours.base == rope_of(theirs)["rope_theta"]
    assert ours.tie_lm_head == theirs.tie_word_embeddings
    assert (ours.num_kv_heads, ours.dim_head) == (4, 16)


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ({}, (10000.0, "", 1.0)),
        ({"rope_theta": 5e5}, (5e5, "", 1.0)),
        ({"rope_theta": 500000, "rope_scaling": None}, (5e5, "", 1.0)),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, (10000.0, "linear", 2.0)),
        ({"rope_theta": 1e6, "rope_scaling": {"rope_type": "dynamic", "factor": 4}}, (1e6, "dynamic", 4.0)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, (1e6, "", 1.0)),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}}, (1e6, "linear", 2.0)),
    ],
)
def test_rope_is_read_in_both_spellings_and_written_in_both(
    tmp_path: Path, spelling: dict[str, Any], expected: tuple[float, str, float]
) -> None:
    config = read(**spelling)
    assert (config.base, config.rope_scaling_type, config.rope_scaling_factor) == expected
    written = with_checkpoint_facts({**LLAMA, **spelling}, config, "BF16")
    assert model_config_from_huggingface(written, "written") == config
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    new = {key: value for key, value in written.items() if key not in ("rope_theta", "rope_scaling")}
    assert model_config_from_huggingface(old, "old") == model_config_from_huggingface(new, "new") == config
    rope = rope_of(loaded_by_transformers(written, tmp_path))
    assert rope["rope_theta"] == expected[0]
    assert rope["rope_type"] == (expected[1] or "default")
    assert rope.get("factor", 1.0) == expected[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "RoPE scaling 'llama3' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, "RoPE scaling 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "has no factor"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_theta=1000000.0, but rope_theta and"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ between layers"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "relu"}, "activate_fn must be one of 'silu', 'gelu', not 'relu'"),
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures is ['GPT2LMHeadModel']"),
        ({"architectures": None}, "architectures is []"),
        ({"hidden_size": None, "vocab_size": None}, "missing key(s) vocab_size, hidden_size"),
        ({"hidden_size": 66}, "not a multiple of num_attention_heads"),
        ({"num_hidden_layers": "2"}, "num_layers must be int, not '2'"),
        ({"scale_emb": 12}, "all of scale_emb, scale_depth, dim_model_base are needed"),
        ({"architectures": ["MiniCPMForCausalLM"]}, "needs scale_emb, scale_depth, dim_model_base"),
        ({"architectures": ["FM9GForCausalLM"], "scale_emb": 12}, "all of scale_emb, scale_depth, dim_model_base"),
    ],
)
def test_what_our_model_cannot_do_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(**changes)
    assert str(caught.value).startswith("config.json: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("architecture", ["MiniCPMForCausalLM", "FM9GForCausalLM"])
def test_mup_fields_turn_scaling_on(architecture: str) -> None:
    config = model_config_from_huggingface({**MINICPM, "architectures": [architecture]}, "config.json")
    assert (config.scale, config.scale_emb, config.scale_depth, config.dim_model_base) == (True, 12.0, 1.4, 16)
    assert config.tie_lm_head  # MiniCPM's configuration class ties unless told otherwise
    assert config.width_ratio == 4.0


def test_a_config_from_scratch_reads_back_as_the_same_model() -> None:
    plain = ModelConfig(96, 64, 4, 2, 80, num_kv_heads=2, dim_head=32, base=5e5, eps=1e-6, tie_lm_head=True)
    mup = ModelConfig(96, 64, 4, 2, 80, scale=True, scale_emb=12.0, scale_depth=1.4, dim_model_base=16)
    for config, family, kind in ((plain, "LlamaForCausalLM", "llama"), (mup, "MiniCPMForCausalLM", "minicpm")):
        written = huggingface_config(config, "BF16", {"bos_token_id": 1, "eos_token_id": None}, "7b.json")
        assert (written["architectures"], written["model_type"]) == ([family], kind)
        assert (written["bos_token_id"], written["eos_token_id"]) == (1, None)
        assert written["torch_dtype"] == written["dtype"] == "bfloat16"
        assert model_config_from_huggingface(written, "config.json") == config


def test_residual_scaling_without_mup_needs_minicpm_too() -> None:
    config = ModelConfig(96, 64, 4, 2, 80, scale_depth=1.4)
    back = model_config_from_huggingface(huggingface_config(config, "F32", {}, "7b.json"), "config.json")
    for name in ("residual_scale", "embedding_scale", "width_ratio"):
        assert getattr(back, name) == getattr(config, name)


def test_minicpm_cannot_say_a_head_dim_of_its_own() -> None:
    config = ModelConfig(96, 64, 4, 2, 80, dim_head=32, scale=True, scale_depth=1.4)
    with pytest.raises(UserError, match="dim_head"):
        huggingface_config(config, "F32", {}, "7b.json")


def test_dynamic_scaling_writes_the_length_before_scaling(tmp_path: Path) -> None:
    settings = {"rope_scaling_type": "dynamic", "rope_scaling_factor": 4.0, "max_length": 512, "orig_max_length": 128}
    written = huggingface_config(ModelConfig(96, 64, 4, 2, 80, **settings), "F32", {}, "7b.json")
    assert loaded_by_transformers(written, tmp_path).max_position_embeddings == 128
