"""Greedy generation of every family token for token, and beside transformers' generate for what decides which tokens
a cache shows and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.generation.engine import Engine, continued
from fm9g.model.decoder import Decoder
from tests.convert.family_models import COMPARED, source
from tests.generation.test_engine import GREEDY, by_transformers, prompts

pytestmark = pytest.mark.usefixtures("single_rank")
# ALiBi, windows in all layers or every other one with soft caps, heads that are rotated in part
ROWS = ["bloom", "mistral", "gemma2", *(["glm"] if hasattr(transformers, "GlmConfig") else [])]
ENDS, NEW = [5, 17], 24


def both(row: str, folder: Path) -> tuple[Any, Decoder]:
    """A random model of a family, and ours of its weights."""
    theirs = source(folder / "source", row)
    model = Decoder(huggingface_to_bmtrain(folder / "source", folder / "7b.pt"))
    model.load_state_dict(torch.load(folder / "7b.pt", weights_only=True))
    return theirs, model


@pytest.mark.parametrize("row", ROWS)
def test_greedy_is_transformers_token_for_token(row: str, tmp_path: Path) -> None:
    """Of texts longer than the window, in batches of every length."""
    theirs, model = both(row, tmp_path)
    given = prompts(16)
    expected = [by_transformers(theirs, prompt, ENDS, NEW) for prompt in given]
    for batch in (1, 16):
        found = []
        for start in range(0, len(given), batch):
            rows = given[start : start + batch]
            found += continued(Engine(model).generate(rows, ENDS, NEW, GREEDY), len(rows))
        assert found == expected
    assert max(map(len, expected)) == NEW and len(set(map(tuple, expected))) > 8


def one_by_one(theirs: Any, prompt: list[int], new: int) -> list[int]:
    """The likeliest tokens by a model that reads all of the text anew for each."""
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(int(theirs(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("row", COMPARED)
def test_every_family_is_continued_as_if_it_were_read_anew(row: str, tmp_path: Path) -> None:
    theirs, model = both(row, tmp_path)
    given = prompts(5)
    with torch.no_grad():
        expected = [one_by_one(theirs, prompt, 10) for prompt in given]
    assert continued(Engine(model).generate(given, [], 10, GREEDY), len(given)) == expected
