"""A vocabulary of one's own, the whole way: tokenizer, rows, a run that trains them beside adapters, and out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from tests.convert.helpers import IN_FLOAT32, read_tensors, save, tiny_llama
from tests.support.domains import DOMAIN_TEXTS
from tests.support.outputs import Output
from tests.support.places import Place, index
from tests.support.runs_here import train_here
from tests.support.tools import run_tool_here

pytestmark = pytest.mark.usefixtures("single_rank")
OPTIONS = {"lora": 1, "lora_r": 4, "lr": 1e-2, "train_iters": 4, "save_iters": 4}
BOTH = "['embed_tokens', 'lm_head']"


class Way:
    """A folder in which the tools are run, one after another."""

    def __init__(self, root: Path):
        self.root = root
        self.place = Place.make(root)
        index(root / "domain", [{"input": "", "output": text} for text in DOMAIN_TEXTS * 4])
        self.mixture = self.place.write_mixture("domain_mixture", [{"path": "domain", "abs_weight": 1}])
        tokens = json.loads((self.place.tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
        save(tiny_llama(vocab_size=len(tokens), num_hidden_layers=2, max_position_embeddings=128), root / "base")
        for path in self.place.tokenizer.iterdir():
            (root / "base" / path.name).write_bytes(path.read_bytes())
        self.tool("train_tokenizer.py", "--path domain.jsonl --vocab_size 400 --output domain_tokenizer")
        self.tool("merge_tokenizers.py", "--base base --domain domain_tokenizer --output merged")
        rows = "--tokenizer merged --resize-from base"
        self.tool("hgface_2_bmtrain.py", f"--huggingface-dir base --output own.pt {rows}")
        self.old, self.new = len(tokens), json.loads((root / "own.json").read_text())["vocab_size"]

    def tool(self, name: str, words: str, status: int = 0) -> str:
        done = run_tool_here(name, words.split(), self.root)
        assert done.returncode == status, done.output
        return done.output

    def train(self, output: Path, **changes: Any) -> Output:
        options = {**OPTIONS, "config": self.root / "own.json", "tokenizer_path": self.root / "merged"}
        options |= {"dataset_config": self.mixture, "pretrained_model": self.root / "own.pt"}
        return train_here(self.place, output, **{**options, **changes})


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory, single_rank: None) -> Way:
    return Way(tmp_path_factory.mktemp("way"))


@pytest.fixture(scope="module")
def run(way: Way) -> Output:
    """Adapters, embeddings and head, trained on the domain."""
    return way.train(way.root / "run", modules_to_save=BOTH)


def checkpoint(run: Output) -> Path:
    return run.checkpoints / "4/fm9g_live_checkpoint-4.pt"


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0]


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32)


def test_rows_are_trained_and_the_merged_model_has_them(way: Way, run: Output) -> None:
    way.tool(
        "bmtrain_2_hgface.py",
        f"--bmtrain-ckpt-path own.pt --lora-ckpt-path {checkpoint(run)} --huggingface-ref-dir base --tokenizer merged "
        "--huggingface-save-dir out",
    )
    trained, before, out = run.weights(4), torch.load(way.root / "own.pt", weights_only=True), way.root / "out"
    assert way.new > way.old + 20
    for ours, theirs in (("input_embedding.weight", "model.embed_tokens.weight"), ("lm_head.weight", "lm_head.weight")):
        assert torch.equal(read_tensors(out)[theirs], trained[ours])
        assert len(trained[ours]) == way.new
        assert (trained[ours] != before[ours])[way.old :].any(1).sum() > 20
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer.encode(DOMAIN_TEXTS[0], add_special_tokens=False)
    assert max(ids) >= way.old and tokenizer.decode(ids) == DOMAIN_TEXTS[0]
    assert loaded(out).config.vocab_size == way.new == len(tokenizer)
    assert logits(loaded(out), ids).isfinite().all()


def test_a_peft_folder_holds_them_and_comes_back(way: Way, run: Output) -> None:
    way.tool(
        "bmtrain_2_hgface.py",
        f"--adapter-only --lora-ckpt-path {checkpoint(run)} --huggingface-ref-dir base --huggingface-save-dir peft",
    )
    way.tool("hgface_2_bmtrain.py", "--peft-dir peft --huggingface-dir base --output back.pt")
    back, trained = torch.load(way.root / "back.pt", weights_only=True), run.weights(4)
    assert back.keys() == trained.keys() and all(torch.equal(back[name], trained[name]) for name in trained)
    model = loaded(way.root / "base")
    model.resize_token_embeddings(way.new)
    theirs = peft.PeftModel.from_pretrained(model, way.root / "peft")
    way.tool(
        "merge_peft_adapter.py",
        "--base_model base --tokenizer_path merged --lora_model peft --output_dir by_peft --resize_emb",
    )
    ids = transformers.AutoTokenizer.from_pretrained(way.root / "by_peft").encode(DOMAIN_TEXTS[1])
    found, expected = logits(loaded(way.root / "by_peft"), ids), logits(theirs, ids)
    assert max(ids) >= way.old
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_run_without_rows_to_train_leaves_them_as_they_were_made(way: Way, tmp_path: Path) -> None:
    adapters = checkpoint(way.train(tmp_path / "run"))
    words = f"--bmtrain-ckpt-path own.pt --lora-ckpt-path {adapters} --huggingface-ref-dir base"
    told = way.tool("bmtrain_2_hgface.py", f"{words} --huggingface-save-dir {tmp_path / 'out'}", status=1)
    assert f"own.pt: has {way.new} rows of embeddings, vocab_size is {way.old} in base/config.json" in told
    way.tool("bmtrain_2_hgface.py", f"{words} --tokenizer merged --huggingface-save-dir {tmp_path / 'out'}")
    before = torch.load(way.root / "own.pt", weights_only=True)
    assert torch.equal(read_tensors(tmp_path / "out")["lm_head.weight"], before["lm_head.weight"])


def test_one_of_the_two_tables_alone_is_no_peft_folder_for_the_old_model(way: Way, tmp_path: Path) -> None:
    adapters = checkpoint(way.train(tmp_path / "run", modules_to_save="['lm_head']"))
    words = f"--adapter-only --lora-ckpt-path {adapters} --huggingface-save-dir {tmp_path / 'peft'}"
    told = way.tool("bmtrain_2_hgface.py", f"{words} --huggingface-ref-dir base", status=1)
    assert f"lm_head.weight has {way.new} rows, the model {way.old}, and the rows of input_embedding.weight" in told
    grown = tmp_path / "grown"
    way.tool(
        "bmtrain_2_hgface.py",
        f"--bmtrain-ckpt-path own.pt --huggingface-ref-dir base --tokenizer merged --huggingface-save-dir {grown}",
    )
    way.tool("bmtrain_2_hgface.py", f"{words} --huggingface-ref-dir {grown}")
    theirs = peft.PeftModel.from_pretrained(loaded(grown), tmp_path / "peft")
    assert len(theirs.get_output_embeddings().weight) == way.new


def test_a_run_with_the_old_tokenizer_is_warned(way: Way, tmp_path: Path) -> None:
    run = way.train(tmp_path / "run", tokenizer_path=way.place.tokenizer)
    assert "is not the tokenizer that" in run.log  # type: ignore[attr-defined]
