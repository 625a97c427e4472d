"""A model config is checked where it is read."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from tests.support.ranks import REPOSITORY

NEEDED = {"vocab_size": 32, "dim_model": 16, "num_heads": 4, "num_layers": 2, "dim_ff": 24}

MIXTURE = {"num_experts": 4, "experts_per_token": 2}


def read(**changes: Any) -> ModelConfig:
    return ModelConfig.from_dict({**NEEDED, **changes}, "model.json")


def test_what_is_left_out_follows_from_the_rest() -> None:
    config = read()
    assert (config.num_kv_heads, config.dim_head, config.dim_model_base) == (4, 4, 16)
    assert config.orig_max_length == config.max_length
    assert (config.dim_expert, read(**MIXTURE).dim_expert, read(**MIXTURE, dim_expert=8).dim_expert) == (0, 24, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_head": 4}, r"model.json: unknown key 'num_head' \(did you mean 'num_heads'\?\)"),
        ({"hidden_size": 4}, "model.json: unknown key 'hidden_size'"),
        ({"num_layers": "2"}, "model.json: num_layers must be int, not '2'"),
        ({"num_layers": 2.0}, r"model.json: num_layers must be int, not 2\.0"),
        ({"num_layers": True}, "model.json: num_layers must be int, not True"),
        ({"scale": 1}, "model.json: scale must be bool, not 1"),
        ({"eps": "1e-5"}, "model.json: eps must be float, not '1e-5'"),
        ({"eps": None}, "model.json: eps must be float, not None"),
        ({"vocab_size": 0}, "model.json: vocab_size must be positive, not 0"),
        ({"num_layers": -1}, "model.json: num_layers must be positive, not -1"),
        ({"num_experts": -1}, r"model.json: num_experts must be a number from 0 to below 2\^31, not -1"),
        ({"num_experts": 10**5}, "model.json: num_experts must be at most 10000, not 100000"),
        ({"num_experts": 4}, r"model.json: experts_per_token must be from 1 to num_experts \(4\), not 0"),
        (MIXTURE | {"experts_per_token": 5}, r"experts_per_token must be from 1 to num_experts \(4\), not 5"),
        (MIXTURE | {"router_loss": -0.1}, "router_loss must be a number from 0 on, not -0.1"),
        ({"dim_expert": 8}, "model.json: dim_expert means nothing without num_experts"),
        ({"router_loss": 0.1}, "model.json: router_loss means nothing without num_experts"),
        ({"norm_expert_weights": True}, "model.json: norm_expert_weights means nothing without num_experts"),
        ({"num_heads": 0}, "model.json: num_heads must be positive, not 0"),
        ({"num_kv_heads": -2}, "model.json: num_kv_heads must be positive, not -2"),
        ({"vocab_size": 2**31}, r"model.json: vocab_size must be below 2\^31, not 2147483648"),
        ({"num_layers": 10**6}, "model.json: num_layers must be at most 10000, not 1000000"),
        ({"orig_max_length": -1}, "model.json: orig_max_length must be positive, not -1"),
        ({"dim_model_base": 256.5}, r"model.json: dim_model_base must be int, not 256\.5"),
        ({"eps": math.nan}, "model.json: eps must be a positive number, not nan"),
        ({"eps": 0}, r"model.json: eps must be a positive number, not 0\.0"),
        ({"eps": 10**400}, "model.json: eps must be a number that a float can hold, not 1000"),
        ({"base": 0}, r"model.json: base must be a number from 1 on that a float32 can hold, not 0\.0"),
        ({"base": -1e4}, "model.json: base must be a number from 1 on"),
        ({"base": math.inf}, "model.json: base must be a number from 1 on"),
        ({"dropout_p": 2}, r"model.json: dropout_p must be a share from 0 to below 1, not 2\.0"),
        ({"dropout_p": -0.1}, "model.json: dropout_p must be a share"),
        ({"init_std": -0.02}, "model.json: init_std must be a number from 0 on"),
        ({"init_std": math.nan}, "model.json: init_std must be a number from 0 on"),
        ({"scale_depth": math.nan}, "model.json: scale_depth must be a finite number, not nan"),
        ({"rope_scaling_factor": 0}, "model.json: rope_scaling_factor must be a positive number"),
        ({"rope_scaling_factor": math.nan}, "model.json: rope_scaling_factor must be a positive number"),
        ({"rope_scaling_type": None}, "model.json: rope_scaling_type must be str, not None"),
        (
            {"rope_scaling_type": "dynamic", "dim_head": 2, "orig_max_length": 8},
            "model.json: dim_head must be above 2 for rope_scaling_type 'dynamic'",
        ),
        (
            {"rope_scaling_type": "dynamic", "rope_scaling_factor": 1e300, "orig_max_length": 8},
            r"model.json: rope_scaling_factor 1e\+300 raises base 10000 beyond what a float32 can hold",
        ),
        ({"num_kv_heads": 3}, r"num_heads \(4\) is not a multiple of num_kv_heads \(3\)"),
        ({"dim_head": 5}, "dim_head must be even and positive for rotary embeddings, not 5"),
        ({"dtype": "fp32"}, "dtype must be one of 'bf16', 'fp16', 'float32', not 'fp32'"),
        ({"activate_fn": "relu"}, "activate_fn must be one of 'silu', 'gelu', 'gelu_tanh', not 'relu'"),
        (
            {"rope_scaling_type": "ntk"},
            "rope_scaling_type must be one of '', 'linear', 'dynamic', 'llama3', 'yarn', 'longrope', not 'ntk'",
        ),
        (
            {"rope_scaling_type": "llama3", "rope_scaling_beta_fast": 16},
            "rope_scaling_beta_fast means nothing to rope_scaling_type 'llama3'",
        ),
        (
            {"rope_scaling_type": "longrope", "rope_scaling_short_factors": [1.0]},
            "rope_scaling_short_factors must be 2 numbers, one for each pair of a head's rotated dimensions, not 1",
        ),
        (
            {"rope_scaling_type": "longrope", "rope_scaling_short_factors": [0, 1]},
            r"rope_scaling_short_factors must be positive numbers, not \[0\.0, 1\.0\]",
        ),
        (
            {"rope_scaling_type": "longrope", "max_length": 1},
            "orig_max_length must be above 1 for rope_scaling_type 'longrope'",
        ),
        ({"rope_scaling_long_factors": [1.0]}, "rope_scaling_long_factors means nothing to rope_scaling_type ''"),
        ({"rope_scaling_long_factors": 1.0}, "rope_scaling_long_factors must be a list of numbers, not 1.0"),
        ({"rope_scaling_type": "yarn", "base": 1.0}, "base must be above 1 for rope_scaling_type 'yarn', not 1"),
        ({"rope_scaling_type": "yarn", "rope_scaling_attention_factor": -1}, "a number from 0 on, not -1.0"),
        ({"norm": "batch"}, "norm must be one of 'rms', 'rms_1p', 'layer', not 'batch'"),
        ({"position": "learned"}, "position must be one of 'rotary', 'alibi', not 'learned'"),
        ({"position": "alibi", "attention_softcap": 5.0}, "attention_softcap is not supported with position 'alibi'"),
        ({"dim_head": 10**400}, r"dim_head must be below 2\^31, not 1000"),
        ({"position": "alibi", "rotary_dim": 2}, "rotary_dim means nothing to position 'alibi'"),
        ({"position": "alibi", "max_length": 2**17}, "max_length must be at most 65536 with position 'alibi'"),
        ({"position": "alibi", "base": 5000.0}, "base means nothing to position 'alibi', which rotates nothing"),
        ({"rotary_dim": 3}, "rotary_dim must be even and positive for rotary embeddings, not 3"),
        ({"rotary_dim": 4096}, "rotary_dim 4096 is above dim_head"),
        ({"sliding_window": -1}, "sliding_window must be a number from 0 on, not -1"),
        ({"sliding_layers": [0]}, "sliding_layers means nothing without sliding_window"),
        ({"sliding_window": 8, "sliding_layers": [99]}, "sliding_layers must be of the layers 0 to "),
        ({"sliding_layers": "all"}, "sliding_layers must be a list of whole numbers, not 'all'"),
        ({"logit_softcap": -1.0}, "logit_softcap must be a number from 0 on, not -1"),
        ({"pose_prob": 0.5}, "pose_prob=0.5 is not supported"),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**changes)


def test_missing_keys_are_named_together() -> None:
    with pytest.raises(UserError, match=r"model.json: missing key\(s\) num_layers, dim_ff"):
        ModelConfig.from_dict({"vocab_size": 1, "dim_model": 8, "num_heads": 1}, "model.json")


def test_something_else_than_an_object_is_an_error() -> None:
    with pytest.raises(UserError, match=r"model.json: expected a JSON object of settings, found list"):
        ModelConfig.from_dict([], "model.json")  # type: ignore[arg-type]


def test_a_whole_number_serves_as_a_float() -> None:
    assert read(scale_emb=12).scale_emb == 12.0
    assert isinstance(read(base=10000).base, float)


def test_a_file_comes_back_with_every_field(tmp_path: Path) -> None:
    config = read(scale=True, scale_emb=12.0, tie_lm_head=True, dtype="bf16")
    path = tmp_path / "model.json"
    config.to_json(path)
    assert ModelConfig.from_json(path) == config
    assert set(json.loads(path.read_text())) == {field.name for field in dataclasses.fields(ModelConfig)}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "model_configs").glob("*.json")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_can_be_read(path: Path) -> None:
    assert ModelConfig.from_json(path).num_layers > 0


def test_mup_scales() -> None:
    mup = read(scale=True, scale_emb=12.0, scale_depth=1.4, dim_model_base=4)
    assert mup.embedding_scale == 12
    assert mup.residual_scale == pytest.approx(1.4 / 2**0.5)
    assert mup.width_ratio == 4
    llama = read(scale_emb=12.0, dim_model_base=4)
    assert (llama.embedding_scale, llama.residual_scale, llama.width_ratio) == (1, 1, 1)


def test_what_is_usual_is_one_config_however_it_is_said() -> None:
    plain = read(max_length=64, num_layers=2, dim_head=16)
    usual = {"attention_scale": 0.25, "rotary_dim": 16}
    assert read(max_length=64, num_layers=2, dim_head=16, **usual) == plain
    assert read(num_layers=2, sliding_window=8, sliding_layers=[0, 1]) == read(num_layers=2, sliding_window=8)


def test_a_window_that_no_text_reaches_is_none_until_texts_are_longer() -> None:
    config = read(max_length=64, num_layers=2, sliding_window=64, sliding_layers=[1])
    assert config.windows == (0, 0)
    assert dataclasses.replace(config, max_length=65).windows == (0, 64)
