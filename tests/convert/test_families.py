"""Each architecture: converted, our decoder computes what transformers' own model does, or a reference in
tests/convert/references where its code is elsewhere, and every bit comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional as F

from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.families import FAMILIES, bloom, llama, mistral
from fm9g.convert.hf_config import family_of, huggingface_config, model_config_from_huggingface
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from fm9g.files import write_json
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from tests.convert.family_models import COMPARED, ROWS, SHAPE, assert_close, source
from tests.convert.helpers import assert_same_bits, gradients_of_theirs, in_their_names, read_file, read_tensors
from tests.convert.references.llama_like import FM9G
from tests.model.pairs import gradients, tokens_and_targets

pytestmark = pytest.mark.usefixtures("single_rank")

LENGTH = 40
# Rows whose mathematics no architecture of transformers has
ELSEWHERE = {
    "qwen, rotated in part, biases": ("ffn_bias and out_bias and qkv_bias and rotary_dim", "QWenLMHeadModel"),
    "baichuan 13b": ("position", "BaichuanForCausalLM"),
    "baichuan 2 7b": ("head_norm", "BaichuanForCausalLM"),
    "baichuan 2 13b": ("head_norm and position", "BaichuanForCausalLM"),
    "chatglm, layer norms, biases": ("ffn_bias and norm and out_bias and qkv_bias and rotary_dim", "ChatGLMModel"),
}
# Keys that are written even if the source left them out, to models whose code reads them as transformers' does
RESTATED = {"rope_parameters", "rope_scaling", "rope_theta", "tie_word_embeddings"}
# A row of every kind of mathematics that tokens before a document could leak into
PACKED = [
    *("bloom", "baichuan 2 13b", "chatglm2, 32k", "qwen, rotated in part, biases", "internlm2", "phi3"),
    *("mistral", "qwen2, a window", "gemma2", "llama, YaRN"),
]


def test_there_is_a_row_of_every_architecture() -> None:
    """But of those that an old transformers has not."""
    held = {
        f"{kind}ForCausalLM" if isinstance(kind, str) else kind(**settings).architecture
        for kind, settings in ROWS.values()
    }
    missing = {family.architecture: family.model_type for family in FAMILIES if family.architecture not in held}
    assert all(model_type and not hasattr(transformers, name) for name, model_type in missing.items()), missing


@pytest.mark.parametrize("row", COMPARED)
def test_logits_and_gradients_are_transformers(row: str, tmp_path: Path) -> None:
    theirs = source(tmp_path / "source", row)
    config = huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    ours = Decoder(config)
    ours.load_state_dict(torch.load(tmp_path / "7b.pt", weights_only=True))
    tokens, targets = tokens_and_targets(config.vocab_size, [LENGTH])
    logits = theirs(input_ids=tokens.cpu()[None]).logits[0]
    F.cross_entropy(logits, targets.cpu(), reduction="sum").backward()
    assert_close(ours(tokens, ours.context([LENGTH])).detach(), logits.detach(), "logits")
    ours.loss(tokens, targets, ours.context([LENGTH]))[0].backward()
    found, reference = in_their_names(gradients(ours), config, theirs), gradients_of_theirs(theirs)
    assert found.keys() == reference.keys()
    for name, gradient in reference.items():
        assert_close(found[name], gradient, name)


def rounded(folder: Path) -> None:
    """The folder's weights in bf16."""
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in read_file(path).items()}, path, {"format": "pt"})


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_bit_comes_back(row: str, dtype: str, tmp_path: Path) -> None:
    source(tmp_path / "source", row)
    if dtype == "bfloat16":
        rounded(tmp_path / "source")
    config = huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    with_reference(tmp_path / "source", tmp_path / "7b.pt", tmp_path / "back")
    tensors = read_tensors(tmp_path / "source")
    tensors.pop("transformer.rotary_pos_emb.inv_freq", None)  # follows from the config
    assert_same_bits(read_tensors(tmp_path / "back"), tensors)
    assert huggingface_to_bmtrain(tmp_path / "back", tmp_path / "again.pt") == config
    kind = ROWS[row][0]
    if isinstance(kind, str):
        assert type(transformers.AutoConfig.from_pretrained(tmp_path / "back")).__name__ == f"{kind}Config"
    else:
        values = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("source", "back")]
        said = {**values[0], "dtype": dtype, "torch_dtype": dtype}
        assert {key: value for key, value in values[1].items() if key in said} == said
        assert values[1].keys() - said.keys() <= (RESTATED if issubclass(kind, FM9G) else set())


@pytest.mark.parametrize("row", ROWS)
def test_from_scratch_a_config_is_written_as_a_family_that_reads_it(row: str, tmp_path: Path) -> None:
    source(tmp_path / "source", row)
    config = huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    if row in ELSEWHERE:
        fields, architecture = ELSEWHERE[row]
        words = f"no architecture whose code is in transformers has {fields}: {architecture} has"
        with pytest.raises(UserError, match=words):
            huggingface_config(config, "F32", {}, "7b.json")
        return
    written = huggingface_config(config, "F32", {}, "7b.json")
    back = model_config_from_huggingface(written, "config.json")
    # of a window that no text reaches nothing is said
    unreached = {} if any(config.windows) else {"sliding_window": 0, "sliding_layers": ()}
    assert {**vars(back), "dtype": "float32"} == {**vars(config), **unreached}
    (tmp_path / "written").mkdir()
    write_json(tmp_path / "written" / "config.json", written)
    if not hasattr(transformers, written["architectures"][0]):
        return  # of a version that this transformers is older than
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "written")
    assert getattr(theirs, "num_experts", getattr(theirs, "num_local_experts", 0)) == config.num_experts


def test_a_bloom_whose_names_lack_their_prefix_is_the_same_and_gets_it(tmp_path: Path) -> None:
    source(tmp_path / "full", "bloom")
    config = huggingface_to_bmtrain(tmp_path / "full", tmp_path / "a.pt")
    tensors = read_tensors(tmp_path / "full")
    (tmp_path / "short").mkdir()
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(short, tmp_path / "short" / "model.safetensors")
    shutil.copy(tmp_path / "full" / "config.json", tmp_path / "short")
    assert huggingface_to_bmtrain(tmp_path / "short", tmp_path / "b.pt") == config
    found, expected = (torch.load(tmp_path / name, weights_only=True) for name in ("b.pt", "a.pt"))
    assert_same_bits(found, expected)
    with_reference(tmp_path / "short", tmp_path / "b.pt", tmp_path / "back")
    assert_same_bits(read_tensors(tmp_path / "back"), tensors)


@pytest.mark.parametrize("row", PACKED)
def test_packed_documents_are_as_each_alone(row: str, tmp_path: Path) -> None:
    source(tmp_path / "source", row)
    model = Decoder(huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt"))
    model.load_state_dict(torch.load(tmp_path / "7b.pt", weights_only=True))
    lengths = [5, 9, 3, 12]
    tokens, _ = tokens_and_targets(model.config.vocab_size, lengths)
    with torch.no_grad():
        alone = torch.cat([model(part, model.context([len(part)])) for part in tokens.split(lengths)])
        assert_close(model(tokens, model.context(lengths)), alone.cpu(), "logits")


def test_mixtral_without_a_base_of_rope_has_its_own() -> None:
    for told in ({}, {"rope_parameters": {"rope_type": "default"}}, {"rope_theta": None}):
        values = {**SHAPE, "architectures": ["MixtralForCausalLM"], **told}
        assert model_config_from_huggingface(values, "config.json").base == 1e6
    values = {**SHAPE, "architectures": ["MixtralForCausalLM"], "rope_parameters": {"rope_theta": 5e5}}
    assert model_config_from_huggingface(values, "config.json").base == 5e5


def test_experts_whose_weights_do_not_sum_to_one_are_no_mixtrals() -> None:
    shape: dict[str, Any] = {"vocab_size": 8, "dim_model": 8, "num_heads": 2, "num_layers": 1, "dim_ff": 8}
    with pytest.raises(UserError, match=r"7b\.json: .*norm_expert_weights must be true"):
        huggingface_config(ModelConfig(**shape, num_experts=4, experts_per_token=2), "F32", {}, "7b.json")


def test_an_unknown_architecture_lists_those_there_are_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"one of BaiChuanForCausalLM, .*; the nearest in name is LlamaForCausalLM,"):
        family_of({"architectures": ["LLamaForCausalLM"]}, "config.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"norm": "layer", "scale": True, "scale_emb": 8**0.5, "activate_fn": "gelu_tanh"},
            "norm must be rms_1p for a",
        ),
        ({**bloom.OWN, "norm": "rms_1p", "dim_ff": 32, "activate_fn": "gelu_tanh"}, "norm must be layer for a Bloom"),
        ({"scale": True, "norm": "rms_1p", "activate_fn": "gelu_tanh"}, "Gemma multiplies embeddings by the root"),
        (
            {"qkv_bias": True, "norm_expert_weights": False, "num_experts": 2, "experts_per_token": 1},
            "a LLaMA with num_experts and",
        ),
        ({"out_bias": True}, "Llama has biases of all of attention's projections or of none"),
    ],
)
def test_mathematics_that_an_export_would_lose_is_named(changes: dict[str, Any], words: str) -> None:
    shape: dict[str, Any] = {"vocab_size": 8, "dim_model": 8, "num_heads": 2, "num_layers": 1, "dim_ff": 8}
    with pytest.raises(UserError, match=f"7b.json: .*{words}"):
        huggingface_config(ModelConfig(**{**shape, **changes}), "F32", {}, "7b.json")


def test_a_field_that_no_reader_gives_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a family writes is read again before it is taken for the model."""
    family = mistral.FAMILY._replace(
        write_config=lambda config, where: {**llama._write(config, where), "sliding_window": 9}
    )
    monkeypatch.setattr("fm9g.convert.hf_config.FAMILIES", (family,))
    config = ModelConfig(8, 8, 2, 1, 8, sliding_window=7)
    with pytest.raises(UserError, match=r"MistralForCausalLM .* has not sliding windows by layer \(7,\) and \(9,\)"):
        huggingface_config(config, "F32", {}, "7b.json")


def test_what_no_family_has_together_is_named() -> None:
    shape: dict[str, Any] = {"vocab_size": 8, "dim_model": 8, "num_heads": 2, "num_layers": 1, "dim_ff": 8}
    with pytest.raises(
        UserError, match=r"7b\.json: no architecture of Hugging Face is a LLaMA with qkv_bias and scale"
    ):
        huggingface_config(ModelConfig(**shape, qkv_bias=True, scale=True), "F32", {}, "7b.json")
