"""The chat template in an exported folder: what is served is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from fm9g.convert.bmtrain_to_huggingface import from_scratch
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.data.chat.render import Learned, Renderer
from fm9g.data.chat.template import digest, template_file
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.convert.helpers import save, tiny_llama
from tests.support.chats import RECORDS, conversation, messages, their_ids, tokens_and_ranges
from tests.support.tiny_tokenizers import with_tokens


@pytest.fixture
def export(tmp_path: Path):  # type: ignore[no-untyped-def]
    """The folder that a checkpoint is exported to, with its tokenizer; `trained`: templates of its run's datasets."""

    def run(*trained: str, changed: bool = False, **options: Any) -> Path:
        huggingface_to_bmtrain(save(tiny_llama(vocab_size=700), tmp_path / "model"), tmp_path / "7b.pt")
        tokens = ["<|im_start|>", "<|im_end|>"]
        with_tokens(tmp_path / "tokenizer", tokens, [json.dumps(record) for record in RECORDS])
        tasks = [{"name": "text"}]
        for name in trained:
            path = template_file(name)
            known = "0" * 64 if changed or not path.exists() else digest(json.loads(path.read_text("utf-8")))
            tasks.append({"name": name, "template_name": name, "template": known})
        (tmp_path / "state.json").write_text(json.dumps({"stream": {"tasks": tasks}}))
        from_scratch(tmp_path / "7b.json", tmp_path / "tokenizer", tmp_path / "7b.pt", tmp_path / "out", **options)
        return tmp_path / "out"

    return run


def loaded(folder: Path) -> Any:
    """The tokenizer of a folder in transformers."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def check(folder: Path, template: str) -> None:
    """What transformers makes of messages in `folder` is what training made of them."""
    theirs = loaded(folder)
    renderer = Renderer(template, load_tokenizer(folder), Learned())
    for record in RECORDS[::5]:
        assert their_ids(theirs, record) == tokens_and_ranges(renderer, record)[0]


def test_the_template_that_was_trained_with_is_taken_along(export, capsys):
    folder = export("chatml", "chatml")
    check(folder, "chatml")
    assert "the chat template is chatml, with which it was trained" in capsys.readouterr().err
    theirs = loaded(folder)
    assert (folder / "chat_template.jinja").read_text() == theirs.chat_template
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [theirs.eos_token_id, theirs.convert_tokens_to_ids("<|im_end|>")]
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == ends
    asked = theirs.apply_chat_template(
        messages(conversation(1))[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**asked, max_new_tokens=2, do_sample=False).shape[1] == asked["input_ids"].shape[1] + 2


@pytest.mark.parametrize(
    ("name", "says"), [("chatml", "chatml.json is not what it was"), ("/gone/own.json", "/gone/own.json is not there")]
)
def test_one_that_is_not_what_it_was_is_refused(export, name, says):
    with pytest.raises(UserError, match=f"trained with the template {name}, but .*{says}"):
        export(name, changed=True)


def test_another_may_be_named(export):
    check(export("chatml", changed=True, template="vicuna"), "vicuna")


def test_the_folders_own_may_be_kept(export):
    assert not (export("chatml", template="tokenizer") / "chat_template.jinja").exists()


@pytest.mark.parametrize("trained", [(), ("tokenizer",), ("chatml", "vicuna")])
def test_none_is_taken_where_it_is_not_known_which(export, trained, capsys):
    folder = export(*trained)
    assert not (folder / "chat_template.jinja").exists()
    assert ("several templates (chatml, vicuna)" in capsys.readouterr().err) == (len(trained) == 2)


def test_one_that_the_tokenizer_cannot_express_is_refused(export, tmp_path):
    with pytest.raises(UserError, match=r"template llama3 .* has no token"):
        export(template="llama3")
    assert not (tmp_path / "out").exists()
