"""One model in every form that a person may have it in gives the same text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fm9g.data.chat.conversation import read_question
from fm9g.errors import UserError
from fm9g.serve.source import find_source
from fm9g.serve.text_model import Request, load
from fm9g.tensors.forms import INDEX
from tests.convert.helpers import IN_FLOAT32
from tests.serve.conftest import TEMPLATE, Forms
from tests.support.chats import RECORDS
from tests.support.shards import in_shards
from tests.support.tiny_tokenizers import with_tokens

ASKED = [{"conversations": record["conversations"][:1]} for record in RECORDS[:8]]
NEW = 24
WHOLE = {"a .pt": "weights", "a run": "run", "a Hugging Face folder": "folder"}
ADAPTED = {
    "a run of adapters": ("adapters", None),
    "a .pt and a run of adapters": ("weights", "adapters"),
    "a run and PEFT": ("run", "peft"),
    "Hugging Face and PEFT": ("folder", "peft"),
    "Hugging Face and a run of adapters": ("folder", "adapters"),
    "merged": ("merged", None),
}


def answers(model: Path, adapter: Path | None = None) -> list[str]:
    with load(find_source(model, adapter), None, TEMPLATE, None) as loaded:
        return loaded.answers([loaded.chat_prompt(record) for record in ASKED], Request(NEW), True)


def by_transformers(folder: Path) -> list[str]:
    """What transformers says, asked with the template that the folder was given."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32)
    tokenizer: Any = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    said = []
    for record in ASKED:
        messages = [{"role": "user", "content": record["conversations"][0]["value"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        said.append(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return said


@pytest.fixture(scope="module")
def expected(forms: Forms) -> dict[str, list[str]]:
    return {name: by_transformers(getattr(forms, name)) for name in ("folder", "merged")}


def test_the_two_differ_and_say_something(expected: dict[str, list[str]]) -> None:
    assert expected["folder"] != expected["merged"]
    assert len({*expected["folder"]}) > 1


@pytest.mark.parametrize("form", WHOLE)
def test_a_whole_model(form: str, forms: Forms, expected: dict[str, Any]) -> None:
    assert answers(getattr(forms, WHOLE[form])) == expected["folder"]


@pytest.mark.parametrize("form", ADAPTED)
def test_a_model_with_adapters(form: str, forms: Forms, expected: dict[str, Any]) -> None:
    model, adapter = ADAPTED[form]
    added = getattr(forms, adapter) if adapter else None
    assert answers(getattr(forms, model), added) == expected["merged"]


@pytest.fixture(scope="module")
def sharded(forms: Forms, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of the whole model and of adapters, with their weights in shards."""
    found = {}
    for name in ("run", "adapters"):
        folder = Path(shutil.copytree(getattr(forms, name), tmp_path_factory.mktemp(name) / name))
        weights = folder / "40" / forms.weights.name
        in_shards(weights, weights.parent)
        weights.unlink()
        (folder / "40/manifest.json").unlink()  # of what was written
        found[name] = folder
    return found


def test_weights_in_shards(sharded: dict[str, Path], forms: Forms, expected: dict[str, Any]) -> None:
    """Of a run, of a checkpoint, and named by their index."""
    index = {name: run / f"40/fm9g_live_checkpoint-40{INDEX}" for name, run in sharded.items()}
    assert answers(sharded["run"]) == answers(index["run"]) == expected["folder"]
    assert answers(sharded["adapters"]) == expected["merged"]  # with the .pt that they are for
    assert answers(index["run"], index["adapters"]) == answers(sharded["run"] / "40", forms.adapters)
    assert answers(forms.weights, sharded["adapters"] / "40") == expected["merged"]
    source = find_source(index["run"], None)
    assert (source.template, source.tokenizer) == (TEMPLATE, forms.place.tokenizer)


def test_shards_that_are_not_whole_are_told(sharded: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded["run"] / "40", tmp_path / "40"))
    shard = folder / "fm9g_live_checkpoint-40-00002-of-00003.safetensors"
    with pytest.raises(
        UserError, match=r"one shard of several: give fm9g_live_checkpoint-40\.safetensors\.index\.json"
    ):
        find_source(shard, None)
    shard.unlink()
    with pytest.raises(UserError, match=rf"names {shard.name}, which cannot be read: .*no such file"):
        find_source(folder, None)
    (folder / f"fm9g_live_checkpoint-40{INDEX}").unlink()
    with pytest.raises(UserError, match=r"fm9g_live_checkpoint-40\.pt is missing: the checkpoint is not whole"):
        find_source(folder, None)


def test_what_a_run_knows_needs_no_flag(forms: Forms) -> None:
    for model, adapter in ((forms.run, None), (forms.adapters, None), (forms.folder, forms.adapters)):
        source = find_source(model, adapter)
        assert (source.template, source.tokenizer) == (TEMPLATE, forms.place.tokenizer)


def test_a_file_that_says_nothing_wants_a_tokenizer(alone: Path, forms: Forms) -> None:
    with pytest.raises(UserError, match=r"nothing says which tokenizer .*: name it \(--tokenizer\)"):
        load(find_source(alone, None), None, None, None)
    with load(find_source(alone, None), forms.place.tokenizer, TEMPLATE, "BF16") as loaded:
        assert loaded.answers([loaded.renderer.prompt(read_question(ASKED[0]))], Request(4), True)  # type: ignore


def test_what_is_no_model_is_refused_with_what_is_missing(forms: Forms, tmp_path: Path, alone: Path) -> None:
    copied = Path(shutil.copytree(forms.run / "40", tmp_path / "40"))
    (copied / forms.weights.name).unlink()
    (tmp_path / "empty").mkdir()
    adapter = forms.adapters / "40/fm9g_live_checkpoint-40.pt"
    for model, added, says in (
        (tmp_path / "none", None, "no such model"),
        (tmp_path / "empty", None, "neither config.json .* nor state.json"),
        (copied, None, "fm9g_live_checkpoint-40.pt is missing"),
        (forms.weights, forms.weights, "holds no adapters"),
        (forms.weights, forms.merged, "a whole Hugging Face model, and no adapters"),
        (forms.peft, None, "a PEFT folder: name it as --adapter"),
        (forms.folder / "model.safetensors", None, "name its folder"),
        (forms.weights, forms.peft / "adapter_model.safetensors", "name its folder"),
        (forms.adapters, adapter, "holds adapters, and --adapter names others"),
    ):
        with pytest.raises(UserError, match=says):
            find_source(model, added)
    alone.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"\.json is missing: it is to say what model"):
        find_source(alone, None)


def test_adapters_for_other_weights_are_refused(forms: Forms, alone: Path) -> None:
    tensors = torch.load(alone, weights_only=True)
    tensors["encoder.output_layernorm.weight"] *= 1.5
    torch.save(tensors, alone)
    with pytest.raises(UserError, match="adapters for other weights than"):
        find_source(alone, forms.adapters)


def test_adapters_beside_a_folder_with_other_weights_are_a_warning(
    forms: Forms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find_source(forms.folder, forms.adapters)
    assert "not those of" not in capsys.readouterr().err
    find_source(forms.merged, forms.adapters)
    assert "adapters for weights that are not those of" in capsys.readouterr().err


def test_a_tokenizer_of_more_tokens_than_the_model_knows_is_refused(forms: Forms, tmp_path: Path) -> None:
    larger = with_tokens(tmp_path / "larger", [f"<{number}>" for number in range(700)], ["a text"])
    with pytest.raises(UserError, match=r"tokens, the model knows 700: it is not its tokenizer"):
        load(find_source(forms.weights, None), larger, None, None)


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def own_runs(forms: Forms, tmp_path: Path) -> dict[str, Path]:
    """Copies of the run of the whole model, with a second checkpoint of it, and of that of adapters."""
    runs = {name: Path(shutil.copytree(getattr(forms, name), tmp_path / "runs" / name)) for name in ("run", "adapters")}
    shutil.copytree(runs["run"] / "40", runs["run"] / "30")
    return runs


def test_damaged_weights_are_no_model(own_runs: dict[str, Path], forms: Forms, alone: Path) -> None:
    """Nor the settings of adapters, in state.json, of which one digit makes another model."""
    weights = own_runs["run"] / "40" / forms.weights.name
    turn_a_bit(weights)
    for model in (weights, weights.parent):
        with pytest.raises(UserError, match=rf"{weights} is damaged: .*; take another checkpoint \(.*: (none|30)\)"):
            find_source(model, None)
    shutil.copy(weights, alone)
    find_source(alone, None)  # elsewhere nothing says what it should be
    state = own_runs["adapters"] / "40/state.json"
    state.write_text(state.read_text().replace('"alpha": ', '"alpha": 9', 1))
    for adapter in (own_runs["adapters"] / "40", state.with_name(forms.weights.name)):
        with pytest.raises(UserError, match=r"state\.json: has .* bytes"):
            find_source(forms.weights, adapter)


def test_of_a_run_the_newest_whole_checkpoint_is_taken(
    own_runs: dict[str, Path], forms: Forms, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own_runs["run"]
    assert find_source(run, None).where == run / "40" / forms.weights.name
    assert f"note: {run}: its latest checkpoint, of step 40, is taken" in capsys.readouterr().err
    turn_a_bit(run / "40" / forms.weights.name)
    for name in (run, run / "latest"):
        assert find_source(name, None).where == run / "30" / forms.weights.name
        said = capsys.readouterr().err
        assert "warning: checkpoint 40 is not whole" in said
        assert f"note: {run}: its newest whole checkpoint, of step 30, is taken" in said
    turn_a_bit(run / "30" / forms.weights.name)
    with pytest.raises(UserError, match="no checkpoint up to 40 is whole"):
        find_source(run, None)


def test_the_weights_of_a_run_of_adapters_are_compared(own_runs: dict[str, Path], forms: Forms) -> None:
    weights, state = own_runs["run"] / "40" / forms.weights.name, own_runs["adapters"] / "40/state.json"
    (state.with_name("manifest.json")).unlink()
    state.write_text(state.read_text().replace(str(forms.weights), str(weights)))
    assert find_source(own_runs["adapters"], None).where == weights
    turn_a_bit(weights)
    with pytest.raises(UserError, match=f"{weights} is damaged"):
        find_source(own_runs["adapters"], None)
