"""PEFT's patterns of ranks and alphas, and the names of layers that we write, against PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from fm9g.convert.adapter_files import adapters_to_peft, peft_to_bmtrain
from fm9g.convert.adapters import SavedAdapters
from fm9g.convert.hf_config import described
from fm9g.convert.peft import read_peft
from fm9g.errors import UserError
from fm9g.lora.kind import Kind
from fm9g.lora.layers import LORA_A, LORA_B, adapter_parameters
from fm9g.lora.merge import Adapter, merged
from fm9g.model.config import ModelConfig
from fm9g.tensors.lazy import held
from fm9g.tensors.readers import read_huggingface_folder
from tests.convert.family_models import source
from tests.convert.helpers import IN_FLOAT32, edit_json

PATTERNS: dict[str, dict[str, Any]] = {
    "a regex": {".*q_proj": 32},
    "a regex with layers": {r"model\.layers\.\d+\.self_attn\.[qk]_proj": 32},
    "the shorter first": {"q_proj": 16, "self_attn.q_proj": 64},
    "the longer first": {"self_attn.q_proj": 64, "q_proj": 16},
    "a beginning": {"^model.layers.*": 32},
    "a fraction": {"q_proj": 1.5},
}


def adapted(folder: Path, **options: Any) -> Any:
    """The model with PEFT's adapters, none of them at its beginning."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32)
    torch.manual_seed(0)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options}
    made = peft.get_peft_model(model, peft.LoraConfig(**config))
    for name, value in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    return made


def assert_merged_as_peft_does(base: Path, folder: Path) -> SavedAdapters:
    """What PEFT makes of the folder's weights is what we make of them; returns what was read."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, **IN_FLOAT32)
    expected = dict(peft.PeftModel.from_pretrained(model, folder).merge_and_unload().named_parameters())
    read, weights = read_peft(folder), read_huggingface_folder(base)
    for layer, adapter in read.adapters.items():
        name = f"{layer}.weight"
        pieces = merged(name, weights[name], adapter, read.kind.scale).pieces()
        found = torch.cat(list(pieces)).view(expected[name].shape)
        torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-6)
    return read


@pytest.mark.parametrize("case", PATTERNS)
def test_alphas_are_those_that_peft_takes(llama: Path, tmp_path: Path, case: str) -> None:
    adapted(llama, alpha_pattern=PATTERNS[case]).save_pretrained(tmp_path / "peft")
    assert_merged_as_peft_does(llama, tmp_path / "peft")


@pytest.mark.parametrize("pattern", ["q_proj", ".*q_proj", r"model\.layers\.\d\.self_attn\.q_proj"])
def test_what_is_of_less_rank_is_filled_up_and_can_be_trained(llama: Path, tmp_path: Path, pattern: str) -> None:
    """In B by zeros, which keeps the function; not in A, or neither would ever have a gradient."""
    options = {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {pattern: 2}, "alpha_pattern": {pattern: 4}}
    adapted(llama, **options).save_pretrained(tmp_path / "peft")
    read = assert_merged_as_peft_does(llama, tmp_path / "peft")
    assert read.kind == Kind(4, 8.0)
    fills = []
    for layer, adapter in read.adapters.items():
        a, b = (torch.cat(list(part.pieces())).view(part.shape) for part in (adapter.a, adapter.b))
        assert a.shape[0] == b.shape[1] == 4
        bound = a.shape[1] ** -0.5  # PEFT's and ours: kaiming_uniform_(a=sqrt(5))
        assert 0.7 * bound < a[2:].abs().max() <= bound
        assert b[:, 2:].any() == ("v_proj" in layer)
        fills += [a[2:].numpy().tobytes()] if "q_proj" in layer else []
    assert len(set(fills)) == len(fills) == 3
    for name in ("a", "b"):
        peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / f"{name}.pt")
    first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in "ab")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alpha_pattern": {"q_proj(": 8}}, r"alpha_pattern 'q_proj\(' is no regular expression: "),
        (
            {"alpha_pattern": {"q_proj{9999999999}": 8}},
            r"alpha_pattern 'q_proj\{9999999999\}' is no regular expression: ",
        ),
        ({"rank_pattern": {"k_proj": 4}}, "rank_pattern 'k_proj' matches no layer with an adapter"),
        ({"alpha_pattern": {"proj": 8}}, "alpha_pattern 'proj' matches no layer with an adapter"),
        ({"rank_pattern": {"q_proj": 4.5}}, "rank_pattern 'q_proj' must be a whole number, not 4.5"),
        ({"rank_pattern": {"q_proj": True}}, "rank_pattern 'q_proj' must be a number above 0, .* not True"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern 'q_proj' must be a number above 0, .* not 0"),
        ({"rank_pattern": []}, r"rank_pattern must be an object, not \[\]"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern 'q_proj' must be a number above 0, .* not -1"),
        (
            {"rank_pattern": {".*": 8, "q_proj": 4}},
            r"q_proj has an adapter of rank 4, .*says 8 \(rank_pattern '\.\*'\)",
        ),
        ({"arrow_config": {"top_k": 1}}, "arrow_config={'top_k': 1} is not supported"),
        ({"kasa_config": {}}, "kasa_config={} is not supported"),
        ({"velora_config": {"num_groups": 2}}, "velora_config=.* is not supported"),
        ({"monteclora_config": {"num_samples": 2}}, "monteclora_config=.* is not supported"),
        ({"use_bdlora": {}}, "use_bdlora={} is not supported"),
        ({"alora_invocation_tokens": [1]}, r"alora_invocation_tokens=\[1\] is not supported"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"something_new": 0.5}, "something_new=0.5 is not supported"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights='OLoRA' changed the base, too"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    llama: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    adapted(llama).save_pretrained(tmp_path / "peft")
    read_peft(tmp_path / "peft")
    edit_json(tmp_path / "peft/adapter_config.json", **changes)
    with pytest.raises(UserError, match=says):
        read_peft(tmp_path / "peft")


def own_adapters(config: ModelConfig, layers: list[str]) -> SavedAdapters:
    """Adapters of ours, by our names."""
    torch.manual_seed(0)
    table = adapter_parameters(config, layers, 2, dora=False)
    tensors = {parameter.name: held(torch.randn(parameter.shape)) for parameter in table}
    names = [name.removesuffix(f".{LORA_A}") for name in tensors if name.endswith(LORA_A)]
    adapters = {name: Adapter(tensors[f"{name}.{LORA_A}"], tensors[f"{name}.{LORA_B}"]) for name in names}
    return SavedAdapters(Path("own.pt"), Kind(2, 4.0), 0.0, adapters, {})


NAMED = {
    "qwen, attention": ("qwen", ["attention_out"], ["attn.c_proj"]),
    "qwen, feed-forward": ("qwen", ["w_out", "project_q"], ["c_attn", "mlp.c_proj"]),
    "qwen, both": ("qwen", ["attention_out", "w_out"], ["c_proj"]),
    "qwen, all": ("qwen", ["all"], ["c_attn", "c_proj", "w1", "w2"]),
    "qwen, of more ranks": ("qwen", ["project_q", "project_v", "w_out"], ["c_attn", "mlp.c_proj"]),
    "experts beside a shared one": ("qwen2-moe", ["shared_expert.w_out"], ["shared_expert.down_proj"]),
}


@pytest.mark.parametrize("case", NAMED)
def test_what_we_write_names_the_adapted_layers_alone(tmp_path: Path, case: str) -> None:
    row, layers, names = NAMED[case]
    model = source(tmp_path / "base", row)
    saved = own_adapters(described(tmp_path / "base").config, layers)
    adapters_to_peft(saved, tmp_path / "base", None, tmp_path / "peft")
    config = peft.LoraConfig.from_pretrained(str(tmp_path / "peft"))
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["target_modules"] == names
    peft.inject_adapter_in_model(config, model)
    wrapped = {name: tuple(part.shape) for name, part in model.named_parameters() if ".lora_" in name}
    written = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert wrapped == {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): tuple(part.shape)
        for name, part in written.items()
    }
    assert read_peft(tmp_path / "peft").adapters.keys() == {name.partition(".lora_")[0] for name in wrapped}


def test_blocks_with_other_adapters_than_the_rest_are_named_by_themselves(tmp_path: Path) -> None:
    source(tmp_path / "base", "qwen")
    saved = own_adapters(described(tmp_path / "base").config, ["attention_out", "w_out"])
    some = {name: part for name, part in saved.adapters.items() if "w_out" in name or ".layers.1." in name}
    adapters_to_peft(saved._replace(adapters=some), tmp_path / "base", None, tmp_path / "peft")
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert config["target_modules"] == ["1.attn.c_proj", "mlp.c_proj"]
