"""Adapters against PEFT: outputs, gradients, merging, and its folders there and back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from fm9g.convert.adapter_files import adapters_to_peft, peft_to_bmtrain
from fm9g.convert.adapters import read_adapters
from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from fm9g.lora.adapters import Adapters
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.tensors.readers import read_pt
from fm9g.training.settings import Settings
from tests.convert.helpers import IN_FLOAT32, VOCAB_SIZE, edit_json, save, tiny_llama

pytestmark = pytest.mark.usefixtures("single_rank")
KINDS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
TOKENS = torch.randint(0, VOCAB_SIZE, (24,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def base(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLaMA as a .pt."""
    path = tmp_path_factory.mktemp("base") / "base.pt"
    huggingface_to_bmtrain(llama, path)
    return path


def theirs(llama: Path, **options: Any) -> Any:
    """The model with PEFT's adapters, none of them at its beginning."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(llama, **IN_FLOAT32)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(model, config)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
        elif "magnitude" in name:
            value.data *= 1.2
    return adapted


def ours(base: Path, adapters: Path | None, **options: Any) -> Decoder:
    """Our model with the adapters of a .pt."""
    config = ModelConfig.from_json(base.with_suffix(".json"))
    settings = Settings(lora=True, pretrained_model="x", lora_r=4, lora_alpha=8, lora_target_modules=TARGETS, **options)
    model = Decoder(config, prepare=Adapters(settings, config).prepare)
    weights = dict(torch.load(base, weights_only=True))
    if adapters is not None:
        weights |= torch.load(adapters, weights_only=True)
    model.load_state_dict(weights, strict=adapters is not None)
    return model


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the order of float32 sums: to 1e-5 of the largest value."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS[None]).logits[0]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_pefts(llama: Path, base: Path, tmp_path: Path, kind: str) -> None:
    reference = theirs(llama, **KINDS[kind])
    reference.save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    model = ours(base, tmp_path / "a.pt", **KINDS[kind])
    found = model(TOKENS, model.context([24]))
    expected = reference(TOKENS[None]).logits[0]
    assert_close(found, expected)
    weighted = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)) / 24
    for output in (found, expected):
        (output * weighted).sum().backward()
    gradients = {name: value.grad for name, value in reference.named_parameters() if value.requires_grad}
    for name, value in reference.named_parameters():
        if name in gradients:
            value.data = gradients[name]
    reference.save_pretrained(tmp_path / "gradients")  # the same names, with gradients for values
    peft_to_bmtrain(tmp_path / "gradients", llama, tmp_path / "g.pt")
    wanted = torch.load(tmp_path / "g.pt", weights_only=True)
    mine = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert mine.keys() == wanted.keys()
    for name, value in wanted.items():
        assert_close(mine[name].view(value.shape), value)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_give_what_base_and_adapters_give(llama: Path, base: Path, tmp_path: Path, kind: str) -> None:
    reference = theirs(llama, **KINDS[kind])
    reference.save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    with_reference(llama, base, tmp_path / "merged", adapters=read_adapters(tmp_path / "a.pt", None))
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", **IN_FLOAT32)
    assert_close(logits(merged), logits(reference.eval()))
    with reference.disable_adapter():
        assert (logits(merged) - logits(reference)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_a_folder_goes_there_and_back_bit_for_bit(
    llama: Path, tmp_path: Path, kind: str, saved: list[str] | None
) -> None:
    reference = theirs(llama, modules_to_save=saved, lora_dropout=0.25, **KINDS[kind])
    reference.save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    adapters_to_peft(read_adapters(tmp_path / "a.pt", None), llama, None, tmp_path / "back")
    peft_to_bmtrain(tmp_path / "back", llama, tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert (tmp_path / "a.lora.json").read_text() == (tmp_path / "b.lora.json").read_text()
    model = transformers.AutoModelForCausalLM.from_pretrained(llama, **IN_FLOAT32)
    back = peft.PeftModel.from_pretrained(model, tmp_path / "back").eval()
    assert torch.equal(logits(back), logits(reference.eval()))
    before, after = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("peft", "back"))
    assert sorted(before["target_modules"]) == after["target_modules"] == sorted(TARGETS)
    assert {key: before[key] for key in ("r", "lora_alpha", "lora_dropout")} == {
        key: after[key] for key in ("r", "lora_alpha", "lora_dropout")
    }


def test_a_bin_file_is_read_too(llama: Path, tmp_path: Path) -> None:
    reference = theirs(llama)
    reference.save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    tensors = peft.get_peft_model_state_dict(reference)
    (tmp_path / "peft/adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "peft/adapter_model.bin")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "b.pt")
    first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in "ab")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING': only LORA is known here"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"rank_pattern": {"q_proj": 8}}, "has an adapter of rank 4, adapter_config.json says 8"),
        ({"rank_pattern": 8}, "rank_pattern must be an object, not 8"),
        (
            {"alpha_pattern": {"q_proj": 16}},
            "is scaled by 2, others by 4 .*alpha_pattern.* not supported|by 4, others by 2",
        ),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changed the base, too"),
        ({"r": 8}, "has an adapter of rank 4, adapter_config.json says 8"),
        ({"r": None}, "r must be a number above 0, at most 1,000,000, not None"),
        ({"r": 4.5}, "r must be a whole number, not 4.5"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number above 0"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a number above 0"),
        ({"lora_dropout": "x"}, "lora_dropout must be a number from 0 to below 1, not 'x'"),
        ({"use_rslora": "false"}, "use_rslora must be true or false, not 'false'"),
        ({"init_lora_weights": ["pissa"]}, "init_lora_weights=.* is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, which it does not hold"),
        ({"use_dora": True}, "lora_magnitude_vector is missing"),
    ],
)
def test_folders_of_another_kind_are_refused(llama: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    theirs(llama).save_pretrained(tmp_path / "peft")
    edit_json(tmp_path / "peft/adapter_config.json", **changes)
    with pytest.raises(UserError, match=says):
        peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("binary", [False, True])
def test_tensors_that_are_no_weights_are_refused(llama: Path, tmp_path: Path, binary: bool) -> None:
    reference = theirs(llama)
    reference.save_pretrained(tmp_path / "peft", safe_serialization=not binary)
    path = tmp_path / f"peft/adapter_model.{'bin' if binary else 'safetensors'}"
    tensors = {name: value.double() for name, value in peft.get_peft_model_state_dict(reference).items()}
    torch.save(tensors, path) if binary else save_file(tensors, path)
    with pytest.raises(UserError, match=r"dtype (F64|float64) \(convert it to float32 first\)"):
        peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")


def test_what_the_config_names_and_the_folder_lacks_is_said(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs(llama).save_pretrained(tmp_path / "peft")
    edit_json(tmp_path / "peft/adapter_config.json", target_modules=[*TARGETS, "k_proj", "W_pack"])
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    assert "target_modules names W_pack, k_proj, and there is no adapter for any such layer" in capsys.readouterr().err


def test_what_ends_before_the_weights_are_in_place_leaves_the_old_ones_and_their_note(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs(llama).save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("a.*")}
    edit_json(tmp_path / "peft/adapter_config.json", lora_alpha=64)
    rename, renamed = os.replace, []

    def interrupted(source: Any, target: Any) -> None:
        renamed.append(Path(target).name)
        if renamed[-1] == "a.pt":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt", overwrite=True)
    assert renamed == ["a.lora.json", "a.pt"]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*a.*")} == before
    monkeypatch.undo()
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt", overwrite=True)
    assert read_adapters(tmp_path / "a.pt", None).kind.alpha == 64


def test_values_that_are_not_finite_are_named(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapted = theirs(llama)
    next(value for name, value in adapted.named_parameters() if "lora_B" in name).data *= torch.nan
    adapted.save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    assert "no weights to train from: encoder.layers.0.self_att.self_attention.project_q.lora.lora_B (NaN)" in (
        capsys.readouterr().err
    )


def test_adapters_for_another_model_are_refused(llama: Path, base: Path, tmp_path: Path) -> None:
    theirs(llama).save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    saved = read_adapters(tmp_path / "a.pt", None)
    wider = save(tiny_llama(hidden_size=128), tmp_path / "wider")
    huggingface_to_bmtrain(wider, tmp_path / "wider.pt")
    with pytest.raises(UserError, match=r"A of its adapter is \[4, 64\], and must be \[4, 128\] here"):
        with_reference(wider, tmp_path / "wider.pt", tmp_path / "out", adapters=saved)
    shallow = save(tiny_llama(num_hidden_layers=2), tmp_path / "shallow")
    huggingface_to_bmtrain(shallow, tmp_path / "shallow.pt")
    with pytest.raises(UserError, match=r"has an adapter for encoder.layers.2\..*, which .*shallow.pt does not hold"):
        with_reference(shallow, tmp_path / "shallow.pt", tmp_path / "out", adapters=saved)
    with pytest.raises(UserError, match=r"is for model.layers.2\..*, which is no tensor of this model"):
        peft_to_bmtrain(tmp_path / "peft", shallow, tmp_path / "b.pt")
    described = {"base": "0" * 64, **saved.kind._asdict()}
    (tmp_path / "state.json").write_text(json.dumps({"adapters": described}))
    with pytest.raises(UserError, match="adapters for other weights than"):
        with_reference(llama, base, tmp_path / "out", adapters=saved)
    (tmp_path / "state.json").write_text(json.dumps({"adapters": {**described, "alpha": 99.0}}))
    with pytest.raises(UserError, match=r"a.lora.json: says .* of adapters that are .*99.0"):
        read_adapters(tmp_path / "a.pt", tmp_path / "a.lora.json")


def test_a_folder_of_adapters_is_replaced_if_that_is_asked_for(llama: Path, tmp_path: Path) -> None:
    theirs(llama).save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    saved = read_adapters(tmp_path / "a.pt", None)
    for overwrite in (False, True):
        adapters_to_peft(saved, llama, None, tmp_path / "out", overwrite)
    with pytest.raises(UserError, match="is not empty"):
        adapters_to_peft(saved, llama, None, tmp_path / "out")


def test_what_pefts_folders_cannot_say_is_refused(tmp_path: Path) -> None:
    tied = save(tiny_llama(tie_word_embeddings=True), tmp_path / "tied")
    huggingface_to_bmtrain(tied, tmp_path / "tied.pt")
    theirs(tied, modules_to_save=["embed_tokens"]).save_pretrained(tmp_path / "peft")
    with pytest.raises(UserError, match=r"embed_tokens.weight was trained untied, but embedding and head are one here"):
        peft_to_bmtrain(tmp_path / "peft", tied, tmp_path / "a.pt")
    theirs(tied).save_pretrained(tmp_path / "plain")
    peft_to_bmtrain(tmp_path / "plain", tied, tmp_path / "a.pt")
    saved = read_adapters(tmp_path / "a.pt", None)
    embedding = {"input_embedding.weight": read_pt(tmp_path / "tied.pt")["input_embedding.weight"]}
    with pytest.raises(UserError, match="which PEFT's folder cannot say: merge the adapters instead"):
        adapters_to_peft(saved._replace(whole=embedding), tied, None, tmp_path / "out")
    rows = torch.zeros(VOCAB_SIZE + 8, 64)  # of a model that was given more tokens, it says the same
    torch.save({**torch.load(tmp_path / "a.pt", weights_only=True), "input_embedding.weight": rows}, tmp_path / "b.pt")
    (tmp_path / "b.lora.json").write_text((tmp_path / "a.lora.json").read_text())
    with pytest.raises(UserError, match="which PEFT's folder cannot say: merge the adapters instead"):
        adapters_to_peft(read_adapters(tmp_path / "b.pt", None), tied, None, tmp_path / "out")
    with pytest.raises(UserError, match=r"a.pt: holds adapters: give it as --lora-ckpt-path"):
        with_reference(tied, tmp_path / "a.pt", tmp_path / "out")
    with pytest.raises(UserError, match="is the model's own folder"):
        adapters_to_peft(saved, tied, None, tied, overwrite=True)
    wider = save(tiny_llama(hidden_size=128), tmp_path / "wider")
    with pytest.raises(UserError, match=r"lora_A, \[4, 64\], is \[4, 128\] for this model"):
        adapters_to_peft(saved, wider, None, tmp_path / "out")
    assert not (tmp_path / "out").exists() and (tied / "model.safetensors").exists()
