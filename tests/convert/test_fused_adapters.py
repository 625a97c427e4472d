"""Adapters of tensors that hold several of ours, or ours in another order, against PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from fm9g.convert.adapter_files import adapters_to_peft, peft_to_bmtrain
from fm9g.convert.adapters import read_adapters
from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from tests.convert.helpers import IN_FLOAT32

pytestmark = pytest.mark.usefixtures("single_rank")
SHAPE: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None},
}
KINDS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}
ROWS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Bloom": ({"n_layer": 2, "n_head": 4}, ["query_key_value", "dense", "dense_4h_to_h"]),
    "Phi3": ({}, ["qkv_proj", "gate_up_proj"]),
}
if hasattr(transformers, "GlmConfig"):  # from 4.46 on
    ROWS["Glm"] = ({"head_dim": 24}, ["q_proj", "v_proj", "gate_up_proj"])
TOKENS = torch.randint(0, 96, (24,), generator=torch.Generator().manual_seed(1))


def base(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE, **ROWS[family][0])
    getattr(transformers, f"{family}ForCausalLM")(config).float().save_pretrained(folder)
    return folder


def model_of(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32).eval()


def adapted(folder: Path, family: str, **options: Any) -> Any:
    """The model with PEFT's adapters, none of them at its beginning."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=ROWS[family][1], task_type="CAUSAL_LM", **options)
    torch.manual_seed(1)
    made = peft.get_peft_model(model_of(folder), config)
    for name, value in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
        elif "magnitude" in name:
            value.data *= 1 + 0.2 * torch.rand(value.shape)
    return made.eval()


def logits(model: Any) -> torch.Tensor:
    return model(input_ids=TOKENS[None]).logits[0].detach()  # type: ignore[no-any-return]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ROWS)
def test_a_folder_becomes_ours_and_comes_back(family: str, kind: str, tmp_path: Path) -> None:
    source = base(tmp_path / "source", family)
    reference = adapted(source, family, **KINDS[kind])
    reference.save_pretrained(tmp_path / "peft")
    huggingface_to_bmtrain(source, tmp_path / "base.pt")
    peft_to_bmtrain(tmp_path / "peft", source, tmp_path / "a.pt")
    saved = read_adapters(tmp_path / "a.pt", None)
    with_reference(source, tmp_path / "base.pt", tmp_path / "merged", adapters=saved)
    assert_close(logits(model_of(tmp_path / "merged")), logits(reference))
    adapters_to_peft(saved, source, None, tmp_path / "back")
    back = peft.PeftModel.from_pretrained(model_of(source), tmp_path / "back").eval()
    assert_close(logits(back), logits(reference))
    assert json.loads((tmp_path / "back/adapter_config.json").read_text())["target_modules"] == sorted(ROWS[family][1])
    peft_to_bmtrain(tmp_path / "back", source, tmp_path / "b.pt")
    with_reference(source, tmp_path / "base.pt", tmp_path / "again", adapters=read_adapters(tmp_path / "b.pt", None))
    assert_close(logits(model_of(tmp_path / "again")), logits(reference))


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_parts_that_learned_by_themselves_are_one_adapter_of_more_ranks(kind: str, tmp_path: Path) -> None:
    source = base(tmp_path / "source", "Bloom")
    adapted(source, "Bloom", **KINDS[kind]).save_pretrained(tmp_path / "peft")
    huggingface_to_bmtrain(source, tmp_path / "base.pt")
    peft_to_bmtrain(tmp_path / "peft", source, tmp_path / "a.pt")
    tensors = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.manual_seed(2)
    changed = {name: torch.randn_like(value) for name, value in tensors.items() if "project_k" not in name}
    torch.save(changed, tmp_path / "a.pt")
    note = json.loads((tmp_path / "a.lora.json").read_text())
    note["lora_layer"] = ["project_q", "project_v", "attention_out", "w_out"]
    (tmp_path / "b.json").write_text(json.dumps(note))
    saved = read_adapters(tmp_path / "a.pt", tmp_path / "b.json")
    with_reference(source, tmp_path / "base.pt", tmp_path / "merged", adapters=saved)
    adapters_to_peft(saved, source, None, tmp_path / "back")
    written = json.loads((tmp_path / "back/adapter_config.json").read_text())
    assert (written["r"], written["rank_pattern"]) == (4, {"query_key_value": 8})
    back = peft.PeftModel.from_pretrained(model_of(source), tmp_path / "back").eval()
    assert_close(logits(back), logits(model_of(tmp_path / "merged")))


def test_a_part_alone_has_no_dora_of_the_whole(tmp_path: Path) -> None:
    source = base(tmp_path / "source", "Bloom")
    adapted(source, "Bloom", use_dora=True).save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", source, tmp_path / "a.pt")
    saved = read_adapters(tmp_path / "a.pt", None)
    some = {layer: adapter for layer, adapter in saved.adapters.items() if "project_k" not in layer}
    with pytest.raises(UserError, match=r"a part of transformer\.h\.0\.self_attention\.query_key_value\.weight there"):
        adapters_to_peft(saved._replace(adapters=some), source, None, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = base(tmp_path / "source", "Bloom")
    adapted(base(tmp_path / "other", "Phi3"), "Phi3").save_pretrained(tmp_path / "phi")
    with pytest.raises(UserError, match="is no tensor of this model by itself"):
        peft_to_bmtrain(tmp_path / "phi", source, tmp_path / "a.pt")
