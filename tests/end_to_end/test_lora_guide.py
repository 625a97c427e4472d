"""The LoRA chapter of 九格's guide, command for command: a model of tiny's shape, adapters, one model out of both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fm9g.lora.adapters import Adapters
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.training.settings import config_paths, read_settings
from tests.convert.helpers import IN_FLOAT32, assert_same_bits, read_tensors, save, tiny_llama
from tests.support.apps import start_app
from tests.support.outputs import Output
from tests.support.places import Place
from tests.support.ranks import REPOSITORY, finish
from tests.support.runs_here import APP
from tests.support.tools import run_tool_here

pytestmark = pytest.mark.usefixtures("single_rank")
STEPS = 6
TRAIN_CONFIG = REPOSITORY / "train_configs/tiny_lora.json"
TOKENS = torch.randint(0, 300, (24,), generator=torch.Generator().manual_seed(1))


def tool(name: str, words: str, folder: Path) -> None:
    done = run_tool_here(name, words.split(), folder)
    assert done.returncode == 0, done.output


@pytest.fixture(scope="module")
def guide(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands are run up to the training: the model is base, base.pt, the run in out."""
    root, shape = tmp_path_factory.mktemp("guide"), ModelConfig.from_json(config_paths("tiny_lora")[0])
    base = tiny_llama(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim_model,
        intermediate_size=shape.dim_ff,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=shape.tie_lm_head,
        initializer_range=0.05,
    )
    save(base, root / "base")
    shutil.copytree(place.tokenizer, root / "base", dirs_exist_ok=True)
    tool("hgface_2_bmtrain.py", "--huggingface-dir base --output base.pt", root)
    own = {"config": "tiny_lora", "pretrained_model": "base.pt", "train_iters": STEPS, "lr": None, "warmup_iters": None}
    words = place.words(root / "out", **own)
    done = finish(start_app(words, root, script=APP / "run_bmtrain_lora.sh"), 120)
    assert done.returncode == 0, done.output
    return root


def adapters_of(guide: Path) -> Path:
    return Output(guide / "out").checkpoints / f"{STEPS}/fm9g_live_checkpoint-{STEPS}.pt"


def merge(guide: Path, adapters: Path, target: Path) -> None:
    """The guide's command."""
    words = "--bmtrain-ckpt-path base.pt --huggingface-ref-dir base"
    words += f" --lora-ckpt-path {adapters} --lora-config-path {TRAIN_CONFIG} --huggingface-save-dir {target}"
    tool("bmtrain_2_hgface.py", words, guide)


@pytest.fixture(scope="module")
def merged(guide: Path) -> Path:
    merge(guide, adapters_of(guide), guide / "merged")
    return guide / "merged"


def their_logits(folder: Path) -> torch.Tensor:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32)
    with torch.no_grad():
        return model.eval()(TOKENS[None]).logits[0]


def our_logits(guide: Path) -> torch.Tensor:
    """Of base and adapters side by side, by the train config."""
    settings = read_settings(["--config", "tiny_lora", "--lora", "1", "--pretrained_model", str(guide / "base.pt")])
    config = ModelConfig.from_json(guide / "base.json")
    model = Decoder(config, prepare=Adapters(settings, config).prepare)
    weights = torch.load(guide / "base.pt", weights_only=True)
    model.load_state_dict(weights | torch.load(adapters_of(guide), weights_only=True))
    with torch.no_grad():
        return model.eval()(TOKENS, model.context([len(TOKENS)]))


def test_the_merged_model_is_the_base_with_its_adapters(guide: Path, merged: Path) -> None:
    expected = our_logits(guide)
    size = expected.abs().max()
    assert (their_logits(merged) - expected).abs().max() <= 1e-5 * size
    assert (their_logits(guide / "base") - expected).abs().max() > 1e-2 * size
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    assert tokenizer.decode(tokenizer.encode("a tiny model reads", add_special_tokens=False)) == "a tiny model reads"


def test_the_train_config_alone_says_what_the_adapters_are(guide: Path, merged: Path, tmp_path: Path) -> None:
    """Of a .pt that somebody was sent, without the run's state.json beside it."""
    shutil.copy(adapters_of(guide), tmp_path / "adapters.pt")
    merge(guide, tmp_path / "adapters.pt", tmp_path / "merged")
    assert_same_bits(read_tensors(tmp_path / "merged"), read_tensors(merged))
