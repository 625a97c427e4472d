"""A model whose RoPE has other factors for long texts than for short ones, against transformers' Phi-3 and its rule."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.hf_config import differences, huggingface_config, model_config_from_huggingface
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.model.config import ModelConfig
from tests.convert.helpers import VOCAB_SIZE
from tests.convert.test_rope_parity import error, our_logits, tokens

pytestmark = pytest.mark.usefixtures("single_rank")

FIRST, LENGTH = 32, 128
SHORT = [1.0, 1.0, 1.1, 1.2, 1.4, 1.6, 2.0, 2.5]
LONG = [1.0, 1.3, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0]
SHARES = (1.0, 0.75) if transformers.__version__ >= "4.56" else (1.0,)  # of heads; older Phi-3s rotate whole ones
SCALING = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}


def phi3(folder: Path, share: float = 1.0, **changes: Any) -> Path:
    """A random one, saved by transformers; `changes` to its config.json."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        **{"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0},
        **{"bos_token_id": 1, "eos_token_id": 2, "partial_rotary_factor": share},
        **{"max_position_embeddings": LENGTH, "original_max_position_embeddings": FIRST},
        "rope_scaling": {**SCALING, "short_factor": SHORT[: int(8 * share)], "long_factor": LONG[: int(8 * share)]},
    }
    transformers.Phi3ForCausalLM(transformers.Phi3Config(**settings)).eval().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


def their_logits(folder: Path, length: int) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(tokens(length)[None]).logits[0].float()


@pytest.mark.parametrize("share", SHARES)
def test_each_set_of_factors_is_transformers_and_comes_back(
    tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = phi3(tmp_path / "source", share)
    config = huggingface_to_bmtrain(folder, tmp_path / "3b.pt")
    assert "read as a model of 32 tokens, for which longrope has factors of their own" in capsys.readouterr().err
    weights = torch.load(tmp_path / "3b.pt", weights_only=True)
    with_reference(folder, tmp_path / "3b.pt", tmp_path / "back")
    for length in (20, FIRST):
        assert error(our_logits(config, weights, length), their_logits(folder, length)) < 1e-5
    longer = dataclasses.replace(config, max_length=LENGTH)
    for length in (FIRST + 1, LENGTH):
        assert error(our_logits(longer, weights, length), their_logits(folder, length)) < 1e-5
    assert error(our_logits(config, weights, LENGTH), our_logits(longer, weights, LENGTH)) > 1e-2
    for length in (20, FIRST, FIRST + 1, LENGTH):
        assert torch.equal(their_logits(tmp_path / "back", length), their_logits(folder, length))


def test_a_model_of_long_texts_has_their_factors_for_every_text_and_is_written_so(tmp_path: Path) -> None:
    folder = phi3(tmp_path / "source")
    longer = dataclasses.replace(huggingface_to_bmtrain(folder, tmp_path / "3b.pt"), max_length=100)
    longer.to_json(tmp_path / "3b.json")
    weights = torch.load(tmp_path / "3b.pt", weights_only=True)
    with_reference(folder, tmp_path / "3b.pt", tmp_path / "back")
    for length in (20, FIRST, FIRST + 1, LENGTH):
        assert error(their_logits(tmp_path / "back", length), our_logits(longer, weights, length)) < 1e-5
    back = model_config_from_huggingface(json.loads((tmp_path / "back/config.json").read_text()), "config.json")
    assert differences(longer, back) == [] and back.max_length == LENGTH and not back.reaches_further


def test_the_old_spelling_has_the_three_keys_that_old_code_takes(tmp_path: Path) -> None:
    folder = phi3(tmp_path / "source")
    huggingface_to_bmtrain(folder, tmp_path / "3b.pt")
    with_reference(folder, tmp_path / "3b.pt", tmp_path / "back")
    values = json.loads((tmp_path / "back/config.json").read_text())
    assert values["rope_scaling"] == SCALING
    assert (values["max_position_embeddings"], values["original_max_position_embeddings"]) == (LENGTH, FIRST)


CONFIG = ModelConfig.from_dict(
    {
        **{"vocab_size": VOCAB_SIZE, "dim_model": 64, "num_heads": 4, "num_layers": 2, "dim_ff": 80},
        **{"max_length": FIRST, "rope_scaling_type": "longrope"},
        **{"rope_scaling_short_factors": SHORT, "rope_scaling_long_factors": LONG},
    }
)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling_factor": 4.0},
        {"rope_scaling_factor": 1.0},
        {"rope_scaling_factor": 4.1},  # which no two whole lengths say
        {"rope_scaling_factor": 4.0, "rope_scaling_attention_factor": 1.3},
        {"rope_scaling_factor": 2.0, "orig_max_length": FIRST // 4},  # max_length is beyond both lengths
    ],
)
def test_a_model_from_scratch_is_written_and_comes_back(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    written = huggingface_config(config, "F32", {}, "3b.json")
    back = model_config_from_huggingface(written, "config.json")
    assert back.rope_factors == config.rope_factors
    assert differences(config, back) == []


@pytest.mark.parametrize("name", ["su", "yarn"])
def test_phi3s_older_names_of_it_are_read(tmp_path: Path, name: str) -> None:
    values = json.loads((phi3(tmp_path / "source") / "config.json").read_text())
    old = {key: value for key, value in values.items() if key not in ("rope_parameters", "rope_scaling")}
    old = {**old, "rope_theta": 10000.0, "rope_scaling": {**SCALING, "type": name}}
    expected = model_config_from_huggingface({**old, "rope_scaling": SCALING}, "config.json")
    assert model_config_from_huggingface(old, "config.json") == expected
    assert expected.rope_factors == tuple(SHORT)
    assert expected.rope_scaling_factor == LENGTH / FIRST


def test_a_window_that_short_texts_do_not_reach_is_there_for_long_ones(tmp_path: Path) -> None:
    values = json.loads((phi3(tmp_path / "source", sliding_window=FIRST + 8) / "config.json").read_text())
    config = model_config_from_huggingface(values, "config.json")
    assert config.windows == (0, 0)
    assert dataclasses.replace(config, max_length=LENGTH).windows == (FIRST + 8, FIRST + 8)
