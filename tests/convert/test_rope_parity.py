"""A model whose config.json scales RoPE computes here what transformers' own LLaMA computes, at every length."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fm9g import runtime
from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.hf_config import huggingface_config, model_config_from_huggingface
from fm9g.convert.hf_rope import written_rope
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from tests.convert.helpers import VOCAB_SIZE, save, tiny_llama
from tests.model.pairs import their_name

pytestmark = pytest.mark.usefixtures("single_rank")

LENGTH = 256  # max_position_embeddings
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5e5,
}
# Before 5 transformers did not take YaRN's lengths and factor from where they are named: where all agree, all agree
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": LENGTH if transformers.__version__.startswith("4.") else 64,
    "rope_theta": 1e4,
}
NEW: dict[str, dict[str, Any]] = {}  # what only transformers 5 knows of
if not transformers.__version__.startswith("4."):
    NEW["yarn, mscales"] = {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}}
    NEW["yarn, bounds between dimensions"] = {"rope_parameters": {**YARN, "truncate": False}}
    NEW["yarn, a length beside"] = {
        "rope_parameters": {key: value for key, value in YARN.items() if key != "original_max_position_embeddings"},
        "original_max_position_embeddings": 64,
    }
SPELLINGS: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_parameters": DYNAMIC},
    "dynamic, a shorter original": {"rope_parameters": {**DYNAMIC, "original_max_position_embeddings": 64}},
    "dynamic, a longer original": {"rope_parameters": {**DYNAMIC, "original_max_position_embeddings": 1024}},
    "dynamic, as of old": {"rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "linear": {"rope_parameters": {**DYNAMIC, "rope_type": "linear", "original_max_position_embeddings": 64}},
    "linear, as of old": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"rope_parameters": LLAMA3},
    "llama3, other bounds": {"rope_parameters": {**LLAMA3, "low_freq_factor": 0.5, "high_freq_factor": 20.0}},
    "yarn": {"rope_parameters": YARN},
    "yarn, attention factor": {"rope_parameters": {**YARN, "attention_factor": 0.8, "beta_fast": 16, "beta_slow": 2}},
    **NEW,
    "no scaling": {"rope_scaling": {"type": "default", "factor": 1.0}, "rope_theta": 500.0},
}


def tokens(length: int) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(length))


def their_logits(folder: Path, length: int) -> torch.Tensor:
    """Of a model just loaded, since `dynamic` remembers longer texts."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(tokens(length)[None]).logits[0]


def our_logits(config: ModelConfig, weights: dict[str, torch.Tensor], length: int) -> torch.Tensor:
    model = Decoder(config)
    model.load_state_dict(weights)
    device = runtime.device()
    return model(tokens(length).to(device), model.context([length])).detach().float().cpu()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def source(folder: Path, spelling: dict[str, Any]) -> Path:
    save(tiny_llama(max_position_embeddings=LENGTH), folder)
    values = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "rope_scaling", "rope_theta"):
        values.pop(key, None)
    if "rope_parameters" in spelling and transformers.__version__.startswith("4."):
        new = dict(spelling["rope_parameters"])
        spelling = {"rope_theta": new.pop("rope_theta"), "rope_scaling": new}
    (folder / "config.json").write_text(json.dumps({**values, **spelling}))
    return folder


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_an_imported_model_computes_transformers_logits(tmp_path: Path, spelling: dict[str, Any]) -> None:
    folder = source(tmp_path / "source", spelling)
    config = huggingface_to_bmtrain(folder, tmp_path / "7b.pt")
    weights = torch.load(tmp_path / "7b.pt", weights_only=True)
    with_reference(folder, tmp_path / "7b.pt", tmp_path / "back")
    for length in (20, 100, 200, LENGTH):
        theirs = their_logits(folder, length)
        assert error(our_logits(config, weights, length), theirs) < 1e-5
        assert torch.equal(their_logits(tmp_path / "back", length), theirs)


@pytest.mark.parametrize("scaling", [LLAMA3, YARN], ids=["llama3", "yarn"])
def test_frequencies_that_are_scaled_make_a_difference(tmp_path: Path, scaling: dict[str, Any]) -> None:
    """Else the tests above would pass without them."""
    folder = source(tmp_path / "source", {"rope_parameters": scaling})
    config = huggingface_to_bmtrain(folder, tmp_path / "7b.pt")
    weights = torch.load(tmp_path / "7b.pt", weights_only=True)
    plain = ModelConfig(**{**plain_fields(config), "rope_scaling_type": ""})
    assert error(our_logits(plain, weights, 200), our_logits(config, weights, 200)) > 1e-2


def plain_fields(config: ModelConfig) -> dict[str, Any]:
    scaling = ("rope_scaling_", "orig_max_length")
    return {name: value for name, value in dataclasses.asdict(config).items() if not name.startswith(scaling)}


def test_beyond_the_first_length_an_imported_dynamic_model_has_transformers_base_of_max_length(tmp_path: Path) -> None:
    folder = source(tmp_path / "source", SPELLINGS["dynamic, a shorter original"])
    config = huggingface_to_bmtrain(folder, tmp_path / "7b.pt")
    weights = torch.load(tmp_path / "7b.pt", weights_only=True)
    longer = dataclasses.replace(config, max_length=LENGTH + 100)
    assert error(our_logits(longer, weights, LENGTH + 100), their_logits(folder, LENGTH + 100)) < 1e-5
    assert error(our_logits(longer, weights, 100), their_logits(folder, 100)) > 1e-2  # one base, for every text


def test_an_exported_dynamic_model_computes_our_logits_at_every_length_and_comes_back(tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=False)
    settings: dict[str, Any] = {"rope_scaling_type": "dynamic", "rope_scaling_factor": 4.0, "orig_max_length": 32}
    ours = ModelConfig(VOCAB_SIZE, 64, 4, 3, 80, num_kv_heads=2, dtype="float32", max_length=200, **settings)
    weights = {name: model.state_dict()[their_name(name)] for name in Decoder(ours).state_dict()}
    save(model, tmp_path / "new")
    written = huggingface_config(ours, "F32", {}, "7b.json")
    (tmp_path / "new" / "config.json").write_text(json.dumps(written))
    back = dataclasses.replace(model_config_from_huggingface(written, "config.json"), dtype="float32")
    for length in (20, 32, 33, 100, 200):
        expected = our_logits(ours, weights, length)
        assert error(their_logits(tmp_path / "new", length), expected) < 1e-5
        assert torch.equal(our_logits(back, weights, length), expected)
    plain = dataclasses.replace(ours, rope_scaling_type="")
    assert error(our_logits(plain, weights, 20), our_logits(ours, weights, 20)) > 1e-2


def test_any_part_of_a_head_that_is_rotated_comes_back() -> None:
    """Of transformers' share, which is rounded down."""
    for dim_head in range(2, 258, 2):
        for rotated in range(2, dim_head, 2):
            config = ModelConfig(8, 2 * dim_head, 2, 1, 8, dim_head=dim_head, rotary_dim=rotated)
            assert int(dim_head * written_rope(config, in_part=True)["partial_rotary_factor"]) == rotated
