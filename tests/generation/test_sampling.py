"""How a token is chosen, beside transformers' own processors of logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.generation import logits_process as theirs

from fm9g.errors import UserError
from fm9g.generation.sampling import Sampling, penalized

ROWS, VOCABULARY, DRAWS = 7, 40, 20_000
FILTERS: list[tuple[dict[str, Any], list[Any]]] = [
    ({}, []),
    ({"top_k": 5}, [theirs.TopKLogitsWarper(5)]),
    ({"top_k": 1000}, []),
    ({"top_p": 0.7}, [theirs.TopPLogitsWarper(0.7)]),
    ({"top_p": 1e-6}, [theirs.TopPLogitsWarper(1e-6)]),
    ({"min_p": 0.2}, [theirs.MinPLogitsWarper(0.2)]),
    (
        {"top_k": 20, "top_p": 0.9, "min_p": 0.05},
        [theirs.TopKLogitsWarper(20), theirs.TopPLogitsWarper(0.9), theirs.MinPLogitsWarper(0.05)],
    ),
]


def logits(seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("settings", "warpers"), FILTERS)
def test_filters_leave_what_transformers_leave(settings: dict[str, Any], warpers: list[Any]) -> None:
    expected = logits()
    for warper in warpers:
        expected = warper(torch.zeros(ROWS, 1, dtype=torch.int64), expected)
    found = Sampling(temperature=1, **settings).filtered(logits())
    assert torch.equal(found, expected)
    assert (found > -torch.inf).any(-1).all()


def test_the_penalty_is_that_of_transformers() -> None:
    ids = torch.randint(0, VOCABULARY, (ROWS, 9), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(ROWS, VOCABULARY, dtype=torch.bool).scatter_(1, ids, True)
    expected = theirs.RepetitionPenaltyLogitsProcessor(1.3)(ids, logits())
    assert torch.equal(penalized(logits(), seen, 1.3), expected)


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 6}])
def test_tokens_follow_the_distribution(settings: dict[str, Any]) -> None:
    """By chi-square: beyond the bound once in 10,000 draws of a seed, which is fixed."""
    sampling, row = Sampling(**settings), logits()[:1]
    weights = sampling.filtered(row / sampling.temperature).softmax(-1)[0].double()
    generator = torch.Generator().manual_seed(3)
    drawn = sampling.choose(row.expand(DRAWS, -1), None, generator).bincount(minlength=VOCABULARY)
    assert drawn[weights == 0].sum() == 0
    expected = weights[weights > 0] * DRAWS
    counted = drawn[weights > 0].double()
    likely = expected >= 5  # those too rare for the test's approximation are counted as one
    expected, counted = (
        torch.cat([x[likely], x[~likely].sum().reshape(1)]) if (~likely).any() else x for x in (expected, counted)
    )
    degrees = len(expected) - 1
    statistic = ((counted - expected) ** 2 / expected).sum().item()
    assert statistic < degrees + 3.7 * (2 * degrees) ** 0.5 + 6


def test_no_temperature_takes_the_likeliest() -> None:
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(Sampling().choose(logits(), None, generator), logits().argmax(-1))


def test_the_same_seed_draws_the_same() -> None:
    sampling = Sampling(temperature=2.0)
    draws = [sampling.choose(logits(), None, torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1}, "temperature must be at least 0, not -1"),
        ({"top_k": -1}, "top_k must be at least 0, not -1"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
        ({"min_p": 2}, "min_p must be between 0 and 1, not 2"),
        ({"repetition_penalty": 0}, "repetition_penalty must be from 0.01 to 100, not 0"),
        ({"repetition_penalty": 1e-38}, "repetition_penalty must be from 0.01 to 100, not 1e-38"),
        ({"temperature": float("nan")}, "temperature must be at least 0, not nan"),
    ],
)
def test_values_that_mean_nothing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Sampling(**settings)


@pytest.mark.parametrize("temperature", [1e-320, 1e-46, 1e-40, 1e-6, 1e6, 1e30])
def test_any_temperature_gives_tokens(temperature: float) -> None:
    """The coldest the likeliest, the warmest any."""
    drawn = Sampling(temperature=temperature).choose(logits().expand(-1, -1) * 100, None, torch.Generator())
    assert ((drawn >= 0) & (drawn < VOCABULARY)).all()
    if temperature < 1:
        assert torch.equal(drawn, logits().argmax(-1))
