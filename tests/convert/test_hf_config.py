"""config.json <-> ModelConfig, in every spelling that transformers has had."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers

from fm9g.convert.families import FAMILIES, llama
from fm9g.convert.families.family import MUP_KEYS
from fm9g.convert.hf_config import (
    differences,
    huggingface_config,
    model_config_from_huggingface,
    with_checkpoint_facts,
)
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
MUP = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}
YARN = {"rope_type": "yarn", "factor": 4.0}


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
    written = with_checkpoint_facts({**LLAMA, **spelling}, config, "BF16", llama.FAMILY)
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
        (
            {"rope_scaling": {"rope_type": "ntk", "factor": 8.0}},
            "rope_scaling: RoPE scaling 'ntk' is not supported (only linear, dynamic, llama3, yarn, longrope are)",
        ),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "RoPE scaling 'longrope' has no long_fac"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "original_max_position_embeddings must be a positive whole number, not None",
        ),
        (
            {
                "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
                "original_max_position_embeddings": 64,
            },
            "short_factor must be 8 numbers, one for each pair of a head's rotated dimensions, not 1",
        ),
        (
            {
                "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": ["2"] * 8},
                "original_max_position_embeddings": 64,
            },
            "long_factor must be a list of numbers, not ['2', '2'",
        ),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "RoPE scaling 'llama3' has no low_freq_factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 4}},
            "high_freq_factor must be above low_freq_factor (4)",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": "1", "high_freq_factor": 4}},
            "low_freq_factor must be float, not '1'",
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, "RoPE scaling 'yarn' has no factor"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "attention_factor": 0.0}},
            "rope_parameters: attention_factor must be above 0, not 0.0",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 1.0}},
            "beta_fast must be above beta_slow (1)",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "mscale": "1", "mscale_all_dim": 1.0}},
            "factor, mscale and mscale_all_dim must be positive numbers, not (8.0, '1', 1.0)",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0, "beta_fast": 32}},
            "rope_scaling: beta_fast means nothing to rope_type 'linear'",
        ),
        (
            {
                "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
                "original_max_position_embeddings": 32,
            },
            "original_max_position_embeddings is 32, but another in rope_scaling",
        ),
        (
            {
                "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16},
                "rope_parameters": {"rope_type": "yarn", "factor": 8.0},
            },
            "rope_parameters says beta_fast=None, but rope_scaling 16",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: RoPE scaling 'linear' has no factor"),
        ({"rope_scaling": "dynamic"}, "rope_scaling must be an object, not 'dynamic'"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object, not [1]"),
        ({"rope_scaling": {"type": ["linear"], "factor": 2.0}}, "RoPE scaling ['linear'] is not supported"),
        ({"rope_scaling": {"type": "", "factor": 2.0}}, "RoPE scaling '' is not supported"),
        ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "a type and another rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor must be float, not '2'"),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, "factor must be a positive number, not nan"),
        ({"rope_scaling": {"type": "dynamic", "factor": -2}}, "factor must be a positive number, not -2.0"),
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling: has factor=8.0, but no rope_type"),
        (
            {"rope_scaling": {"type": "dynamic", "alpha": 1000}},
            "rope_scaling: alpha means nothing to rope_type 'dynamic'",
        ),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_theta": 1e6}}, "rope_scaling says rope_theta=1000000.0, but"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 1e6}},
            "rope_parameters says rope_type='default', but rope_scaling 'linear'",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 4.0}},
            "rope_parameters says factor=4.0, but rope_scaling 2.0",
        ),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}},
            "rope_parameters says rope_theta=1000000.0, but rope_theta is 10000.0",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters differs between layers"),
        ({**MINICPM, "attention_bias": True}, "attention_bias=True is not supported"),
        ({**MINICPM, "mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]} is not supported"),
        ({"hidden_act": "relu"}, "hidden_act must be one of 'silu', 'gelu', 'gelu_tanh', not 'relu'"),
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures is ['GPT2LMHeadModel']"),
        ({"architectures": None}, "architectures is []"),
        ({"hidden_size": None, "vocab_size": None}, "missing key(s) vocab_size, hidden_size"),
        ({"hidden_size": 66}, "not a multiple of num_attention_heads"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers must be int, not '2'"),
        ({"max_position_embeddings": 256.0}, "max_position_embeddings must be int, not 256.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number, not nan"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be float, not '1e-5'"),
        ({"rope_theta": 0}, "rope_theta must be a number from 1 on that a float32 can hold, not 0.0"),
        ({"rope_theta": -1e4}, "rope_theta must be a number from 1 on"),
        ({"rope_theta": [1e4]}, "rope_theta must be float, not [10000.0]"),
        ({"rope_theta": 10**400}, "rope_theta must be below 2^63, not 1000"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_parameters: rope_theta must be below 2^63, not 1000"),
        ({"initializer_range": -0.02}, "initializer_range must be a number from 0 on, not -0.02"),
        ({"num_attention_heads": 0}, "num_attention_heads must be positive, not 0"),
        ({"num_attention_heads": True}, "num_attention_heads must be int, not True"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be positive, not 0"),
        ({"num_key_value_heads": 3}, "num_attention_heads (4) is not a multiple of num_key_value_heads (3)"),
        ({"head_dim": 0}, "head_dim must be positive, not 0"),
        ({"head_dim": 15}, "head_dim must be even and positive for rotary embeddings, not 15"),
        ({"vocab_size": 2**40}, "vocab_size must be below 2^31"),
        ({"tie_word_embeddings": "true"}, "tie_word_embeddings must be bool, not 'true'"),
        ({"hidden_act": ["silu"]}, "hidden_act must be str, not ['silu']"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures is [['LlamaForCausalLM']]"),
        ({"architectures": 5}, "architectures is 5"),
        ({**MINICPM, "dim_model_base": 0}, "dim_model_base must be positive, not 0"),
        ({**MINICPM, "scale_emb": float("inf")}, "scale_emb must be a finite number, not inf"),
        ({"scale_emb": 12, "scale_depth": -1.0, "dim_model_base": 16}, "scale_depth must be above 0"),
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gemma"}, "model_type is 'gemma', by which transformers chooses"),
        ({"is_causal": False}, "is_causal=False is not supported"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **MUP},
            "scale_emb means nothing to a Qwen2ForCausalLM",
        ),
        ({"rope_scaling": {**YARN, "truncate": None}}, "truncate must be true or false, not null"),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 0}}, "must be positive, not 0"),
        ({"rope_scaling": YARN, "original_max_position_embeddings": 0}, "must be positive, not 0"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        read(**changes)


@pytest.mark.parametrize("architecture", ["MiniCPMForCausalLM", "FM9GForCausalLM"])
def test_mup_fields_turn_scaling_on(architecture: str) -> None:
    config = model_config_from_huggingface({**MINICPM, "architectures": [architecture]}, "config.json")
    assert (config.scale, config.scale_emb, config.scale_depth, config.dim_model_base) == (True, 12.0, 1.4, 16)
    assert config.tie_lm_head  # MiniCPM's configuration class ties unless told otherwise
    assert config.width_ratio == 4.0


# What some configs must say, so that it is told which model they are of
TELLING: dict[str, dict[str, Any]] = {
    "BaichuanForCausalLM": {"norm_head": True},
    "ChatGLMModel": {"multi_query_attention": True},
    "ChatGLMForConditionalGeneration": {"multi_query_attention": True},
}
MAY_BE_MUP = ("Llama", "MiniCPM", "FM9G")


@pytest.mark.parametrize("architecture", [family.architecture for family in FAMILIES])
@pytest.mark.parametrize(
    "key",
    [
        *("tie_word_embeddings", "rms_norm_eps", "hidden_act", "initializer_range", "max_position_embeddings"),
        *("head_dim", "rope_theta", "rope_scaling"),
    ],
)
def test_a_null_key_is_as_if_left_out(architecture: str, key: str) -> None:
    values = {**MINICPM, "architectures": [architecture], "num_key_value_heads": 4}
    values |= TELLING.get(architecture, {})
    for other in ("model_type", key, *(MUP_KEYS if not architecture.startswith(MAY_BE_MUP) else ())):
        values.pop(other, None)
    left_out = model_config_from_huggingface(values, "config.json")
    assert model_config_from_huggingface({**values, key: None}, "config.json") == left_out


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_null_number_of_key_heads_is_that_of_heads_as_in_transformers(kind: str) -> None:
    theirs = getattr(transformers, f"{kind}Config")(num_attention_heads=4, hidden_size=64, num_key_value_heads=None)
    named = {"architectures": [f"{kind}ForCausalLM"], "model_type": kind.lower()}
    assert read(**named, num_key_value_heads=None).num_kv_heads == 4
    assert theirs.num_key_value_heads == 4


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


@pytest.mark.parametrize("depth", [{}, {"scale_depth": 0.0}, {"scale_depth": 2.8}])
def test_mup_without_a_depth_leaves_residual_branches_alone_in_both_formats(depth: dict[str, Any]) -> None:
    config = ModelConfig(96, 64, 4, 4, 80, scale=True, scale_emb=12.0, dim_model_base=16, **depth)
    assert config.residual_scale == (1.4 if depth.get("scale_depth") else 1.0)
    back = model_config_from_huggingface(huggingface_config(config, "F32", {}, "7b.json"), "config.json")
    assert back.residual_scale == config.residual_scale


def test_minicpm_cannot_say_a_head_dim_of_its_own() -> None:
    config = ModelConfig(96, 64, 4, 2, 80, dim_head=32, scale=True, scale_depth=1.4)
    with pytest.raises(UserError, match="dim_head"):
        huggingface_config(config, "F32", {}, "7b.json")


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


def test_dynamic_scaling_is_read_as_transformers_computes_it() -> None:
    """Its base is rope_theta up to max_position_embeddings; it does not know original_max_position_embeddings."""
    for original in ({}, {"original_max_position_embeddings": 32}, {"original_max_position_embeddings": 128}):
        config = read(rope_parameters={**DYNAMIC, **original})
        assert (config.max_length, config.rotary_base) == (128, 10000.0)
        written = with_checkpoint_facts({**LLAMA}, config, "F32", llama.FAMILY)
        assert written["rope_parameters"] == DYNAMIC  # so that longer texts are still scaled there
        assert written["max_position_embeddings"] == 128


def test_dynamic_scaling_beyond_the_first_length_is_written_as_the_base_that_was_computed(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rope_scaling_type": "dynamic", "rope_scaling_factor": 4.0}
    settings |= {"max_length": 512, "orig_max_length": 128}
    config = ModelConfig(96, 64, 4, 2, 80, **settings)
    base = 10000.0 * (4.0 * 4 - 3) ** (16 / 14)
    assert config.rotary_base == base
    written = huggingface_config(config, "F32", {}, "7b.json")
    theirs = loaded_by_transformers(written, tmp_path)
    assert theirs.max_position_embeddings == 512
    assert (rope_of(theirs)["rope_type"], rope_of(theirs)["rope_theta"]) == ("default", base)
    assert differences(config, model_config_from_huggingface(written, "config.json")) == []


def test_configs_that_compute_the_same_do_not_differ_and_others_do() -> None:
    settings: dict[str, Any] = {"rope_scaling_type": "dynamic", "rope_scaling_factor": 4.0, "max_length": 512}
    raised = ModelConfig(96, 64, 4, 2, 80, **settings, orig_max_length=128)
    assert differences(ModelConfig(96, 64, 4, 2, 80, **settings), ModelConfig(96, 64, 4, 2, 80)) == []
    (difference,) = differences(raised, dataclasses.replace(raised, orig_max_length=256))
    assert difference.startswith("RoPE base ")
    yarn: dict[str, Any] = {"rope_scaling_type": "yarn", "rope_scaling_factor": 4.0}
    near = [ModelConfig(96, 64, 4, 2, 80, **yarn, rope_scaling_attention_factor=x) for x in (1.1386294, 1.138633)]
    assert len(differences(*near)) == 1
    linear = ModelConfig(96, 64, 4, 2, 80, rope_scaling_type="linear", rope_scaling_factor=2.0)
    (difference,) = differences(linear, ModelConfig(96, 64, 4, 2, 80))
    assert difference.startswith("RoPE scaling factor ")
