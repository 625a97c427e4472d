"""Beam search beside transformers'."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fm9g.generation.beams import beam_search
from tests.generation.test_engine import by_transformers, prompts
from tests.model.pairs import config, decoder, theirs

pytestmark = pytest.mark.usefixtures("single_rank")
NEW, ENDS = 16, [5, 17, 40]


@pytest.mark.parametrize("how", [{}, {"repetition_penalty": 1.3}], ids=["plain", "penalty"])
@pytest.mark.parametrize("ends", [ENDS, []], ids=["ends", "endless"])
@pytest.mark.parametrize("width", [2, 4])
def test_it_finds_what_transformers_finds(width: int, ends: list[int], how: dict[str, Any]) -> None:
    model = decoder(config())
    other, given = theirs(model), prompts(16)
    expected = [by_transformers(other, prompt, ends or [-1], NEW, num_beams=width, **how) for prompt in given]
    found = beam_search(model, given, ends, NEW, width, **how)
    assert found == expected
    if ends:
        assert len({len(row) for row in found}) > 2


def test_more_beams_find_what_is_likelier() -> None:
    model = decoder(config())
    given = prompts(12)

    def likelihood(rows: list[list[int]]) -> float:
        total = 0.0
        for prompt, row in zip(given, rows, strict=True):
            with torch.no_grad():
                log_probs = model(torch.tensor(prompt + row), model.context([len(prompt + row)])).log_softmax(-1)
            total += float(log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(row).unsqueeze(1)).sum())
        return total

    assert likelihood(beam_search(model, given, [], 8, 8)) > likelihood(beam_search(model, given, [], 8, 1))
