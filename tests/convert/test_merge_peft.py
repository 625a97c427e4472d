"""tools/merge_peft_adapter.py: the merged model is what PEFT merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fm9g.convert.merge_peft import merge_peft
from fm9g.convert.tokenizer.files import copy_files
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.convert.helpers import IN_FLOAT32, edit_json, save, tiny_llama
from tests.support.tiny_tokenizers import with_tokens

TOKENS = torch.arange(40)[None]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A model, and tokenizers with as many tokens as it has rows, and with more."""
    with_tokens(tmp_path / "tokenizer", [], ["a b c"] * 9)
    with_tokens(tmp_path / "larger", [f"<{i}>" for i in range(40)], ["a b c"] * 9)
    rows = len(transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer"))
    save(tiny_llama(vocab_size=rows), tmp_path / "base")
    return {name: tmp_path / name for name in ("base", "tokenizer", "larger", "adapter", "merged")}


def adapted(base: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, **IN_FLOAT32)
    config = peft.LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})
    made = peft.get_peft_model(model, config)
    for name, value in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    return made


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits[0]


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_the_merged_model_is_pefts(places: dict[str, Path], options: dict[str, Any]) -> None:
    model = adapted(places["base"], **options)
    model.save_pretrained(places["adapter"])
    assert merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], False, False) == 21
    found, expected = logits(loaded(places["merged"])), logits(model.merge_and_unload())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert len(transformers.AutoTokenizer.from_pretrained(places["merged"])) == found.shape[1]
    with pytest.raises(UserError, match="is not empty"):
        merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], False, False)


def test_rows_for_more_tokens_are_added_where_that_is_asked_for(places: dict[str, Path]) -> None:
    adapted(places["base"]).save_pretrained(places["adapter"])
    words = (places["base"], places["larger"], places["adapter"], places["merged"])
    with pytest.raises(UserError, match="--resize_emb adds rows"):
        merge_peft(*words, False, False)
    merge_peft(*words, True, False)
    model, before = loaded(places["merged"]), loaded(places["base"])
    tokens, rows = len(transformers.AutoTokenizer.from_pretrained(places["larger"])), before.config.vocab_size
    assert model.config.vocab_size == tokens == rows + 40
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        new, old = model.get_parameter(name), before.get_parameter(name)
        assert torch.equal(new[:rows], old)
        torch.testing.assert_close(new[rows:], old.mean(0).expand(40, -1))


@pytest.mark.parametrize("adapter", [{}, {"target_modules": ["q_proj", "lm_head"]}])
def test_rows_are_means_of_a_tokens_text_where_the_bases_tokenizer_is_known(
    places: dict[str, Path], adapter: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_files(places["tokenizer"], places["base"], ("tokenizer*",))
    adapted(places["base"], **adapter).save_pretrained(places["adapter"], save_embedding_layers=False)
    merge_peft(places["base"], places["larger"], places["adapter"], places["merged"], True, False)
    assert "each the mean of those of its text's tokens in" in capsys.readouterr().err
    weight = loaded(places["merged"]).get_parameter("lm_head.weight")
    old, new = load_tokenizer(places["tokenizer"]), load_tokenizer(places["larger"])
    for id in range(old.vocab_size, new.vocab_size):
        torch.testing.assert_close(weight[id], weight[old.encode(new.spell(id))].mean(0))


@pytest.mark.parametrize("name", ["base", "adapter", "tokenizer"])
def test_what_is_read_is_never_replaced(places: dict[str, Path], name: str) -> None:
    adapted(places["base"]).save_pretrained(places["adapter"])
    with pytest.raises(UserError, match="is a folder to read from"):
        merge_peft(places["base"], places["tokenizer"], places["adapter"], places[name], False, True)


def test_an_adapter_of_another_model_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    save(tiny_llama(num_hidden_layers=5), tmp_path / "deeper")
    adapted(tmp_path / "deeper").save_pretrained(places["adapter"])
    with pytest.raises(UserError, match=r"which .*base does not hold"):
        merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], False, False)
    assert not places["merged"].exists()


def test_only_embeddings_may_have_other_rows(places: dict[str, Path]) -> None:
    adapted(places["base"]).save_pretrained(places["adapter"])
    path = places["adapter"] / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "base_model.model.model.norm.weight": torch.ones(63)}, path)
    for resize in (False, True):
        with pytest.raises(UserError, match=r"model.norm.weight is \[63\], in .* \[64\]$"):
            merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], resize, False)


def test_another_base_than_the_adapters_is_named(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted(places["base"]).save_pretrained(places["adapter"])
    for told, said in ((str(places["base"]), False), (str(tmp_path), True), ("someone/a-model", False)):
        edit_json(places["adapter"] / "adapter_config.json", base_model_name_or_path=told)
        merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], False, True)
        assert (f"were trained on {told}" in capsys.readouterr().err) == said


TIED = "was trained untied, but .*base ties embedding and head"
UNSAID = "tie_word_embeddings is left out, and what this model takes for it is not known here; .*: write true or false"


@pytest.mark.parametrize("layer", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tie_word_embeddings": True}, TIED),
        ({"architectures": ["FM9GForCausalLM"], "model_type": "fm9g"}, TIED),
        ({"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": ...}, TIED),
        ({"architectures": ["OtherForCausalLM"]}, UNSAID),
        ({"rope_scaling": {"rope_type": "other"}, "rope_parameters": ...}, UNSAID),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false, not None"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, not 'false'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_tables_by_themselves_are_refused_where_they_are_or_may_be_one(
    places: dict[str, Path], layer: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    """Whether they are one, config.json says, or by default the model's class."""
    adapted(places["base"], **layer).save_pretrained(places["adapter"], save_embedding_layers=False)
    edit_json(places["base"] / "config.json", **{"tie_word_embeddings": ..., **changes})
    words = (places["base"], places["tokenizer"], places["adapter"], places["merged"])
    with pytest.raises(UserError, match=says):
        merge_peft(*words, False, False)
    assert not places["merged"].exists()
    edit_json(places["base"] / "config.json", tie_word_embeddings=False)
    merge_peft(*words, False, False)


def test_a_llama_whose_config_says_nothing_of_ties_has_none(places: dict[str, Path]) -> None:
    model = adapted(places["base"], modules_to_save=["lm_head"])
    model.save_pretrained(places["adapter"])
    edit_json(places["base"] / "config.json", tie_word_embeddings=...)
    merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], False, False)
    found, expected = logits(loaded(places["merged"])), logits(model.merge_and_unload())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_adapters_that_leave_tables_alone_need_no_word_of_ties(places: dict[str, Path]) -> None:
    model = adapted(places["base"])
    model.save_pretrained(places["adapter"])
    edit_json(places["base"] / "config.json", tie_word_embeddings=..., architectures=["OtherForCausalLM"])
    merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], False, False)
    found, expected = logits(loaded(places["merged"])), logits(model.merge_and_unload())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "expected a JSON object, found list"),
        ("5", "expected a JSON object, found int"),
        ('{"vocab_size": null}', "vocab_size must be a whole number above 0, not None"),
        ('{"vocab_size": "x"}', "vocab_size must be a whole number above 0, not 'x'"),
        ('{"padded_vocab_size": true}', "padded_vocab_size must be a whole number above 0, not True"),
    ],
)
def test_a_config_that_is_none_is_refused(places: dict[str, Path], text: str, says: str) -> None:
    adapted(places["base"]).save_pretrained(places["adapter"])
    (places["base"] / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json: {says}"):
        merge_peft(places["base"], places["tokenizer"], places["adapter"], places["merged"], False, False)
