"""Generation beside transformers' generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fm9g.errors import UserError
from fm9g.generation.beams import beam_search
from fm9g.generation.engine import Engine, continued
from fm9g.generation.sampling import Sampling
from fm9g.model.decoder import Decoder
from tests.model.pairs import config, decoder, theirs

pytestmark = pytest.mark.usefixtures("single_rank")
GREEDY = Sampling()
PROMPTS, NEW = 50, 24
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "every head its own": {"num_kv_heads": 4},
    "one for all": {"num_kv_heads": 1},
    "tied": {"tie_lm_head": True},
}
MUP: dict[str, Any] = {"scale": True, "scale_emb": 0.5, "scale_depth": 1.4, "dim_model_base": 8}


def prompts(count: int = PROMPTS, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [torch.randint(3, 61, (length,), generator=generator).tolist() for length in lengths]


def by_transformers(other: Any, prompt: Sequence[int], ends: Sequence[int], new: int = NEW, **how: Any) -> list[int]:
    found = other.generate(
        torch.tensor([prompt]), max_new_tokens=new, do_sample=False, eos_token_id=list(ends), pad_token_id=0, **how
    )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens


def by_us(model: Decoder, batch: int, ends: Sequence[int], sampling: Sampling = GREEDY) -> list[list[int]]:
    engine, given = Engine(model), prompts()
    found = []
    for start in range(0, len(given), batch):
        rows = given[start : start + batch]
        found += continued(engine.generate(rows, ends, NEW, sampling), len(rows))
    return found


def without_mup(model: Decoder) -> Decoder:
    """The same function as a LLaMA: muP's multipliers are in its weights."""
    ours, weights = model.config, model.state_dict()
    table = weights["input_embedding.weight"]
    weights["lm_head.weight"] = weights.get("lm_head.weight", table) / (ours.dim_model / MUP["dim_model_base"])
    weights["input_embedding.weight"] = table * MUP["scale_emb"]
    for name in weights:
        if name.endswith(("attention_out.weight", "w_out.weight")):
            weights[name] = weights[name] * MUP["scale_depth"] / ours.num_layers**0.5
    plain: dict[str, Any] = {
        "scale": False,
        "scale_emb": 1.0,
        "scale_depth": -1.0,
        "dim_model_base": 0,
        "tie_lm_head": False,
    }
    llama = Decoder(dataclasses.replace(ours, **plain, spelling=None))
    llama.load_state_dict(weights)
    return llama


@pytest.mark.parametrize("batch", [1, 8, PROMPTS])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_transformers_token_for_token(kind: str, batch: int) -> None:
    """With rows that end early: of 61 tokens, three end."""
    model = decoder(config(**KINDS[kind]))
    ends, other = [5, 17, 40], theirs(model)
    expected = [by_transformers(other, prompt, ends) for prompt in prompts()]
    assert by_us(model, batch, ends) == expected
    lengths = {len(row) for row in expected}
    assert len(lengths) > 3 and max(lengths) == NEW


@pytest.mark.parametrize("tie_lm_head", [False, True])
def test_greedy_with_mup_is_transformers_token_for_token(tie_lm_head: bool) -> None:
    """And as likely: what hidden states are divided by before the head shows in that alone."""
    model = decoder(config(**MUP, tie_lm_head=tie_lm_head))
    ends, other = [5, 17, 40], theirs(without_mup(model))
    expected = [by_transformers(other, prompt, ends) for prompt in prompts()]
    for batch in (1, 8, PROMPTS):
        assert by_us(model, batch, ends) == expected
    lengths = {len(row) for row in expected}
    assert len(lengths) > 3 and max(lengths) == NEW
    given = prompts(4)
    steps = list(Engine(model).generate(given, [], 8, GREEDY))
    for i, prompt in enumerate(given):
        with torch.no_grad():
            logits = other(torch.tensor([prompt + [step[i].token for step in steps]])).logits[0]
        likely = logits.log_softmax(-1)[len(prompt) - 1 : -1].amax(-1)
        torch.testing.assert_close(torch.tensor([step[i].log_prob for step in steps]), likely, rtol=1e-5, atol=1e-5)


def test_a_penalty_is_transformers() -> None:
    model = decoder(config())
    other = theirs(model)
    expected = [by_transformers(other, prompt, [5], repetition_penalty=1.4) for prompt in prompts()]
    assert by_us(model, 8, [5], Sampling(repetition_penalty=1.4)) == expected


def test_with_the_cache_logits_are_those_of_the_whole_row() -> None:
    model = decoder(config(scale=True, scale_depth=1.4, scale_emb=12, dim_model_base=16)).eval()
    engine, given = Engine(model), prompts(5)
    steps = list(engine.generate(given, [], 8, GREEDY))
    rows = [row + [step[i].token for step in steps] for i, row in enumerate(given)]
    for i, row in enumerate(rows):
        with torch.no_grad():
            logits = model(torch.tensor(row), model.context([len(row)]))
        log_probs = logits.log_softmax(-1)[len(given[i]) - 1 : -1]
        assert log_probs.argmax(-1).tolist() == row[len(given[i]) :]
        told = torch.tensor([step[i].log_prob for step in steps])
        torch.testing.assert_close(log_probs.amax(-1), told, rtol=1e-5, atol=1e-5)


def test_a_prompt_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="prompt 1 has no token"):
        next(Engine(decoder(config())).generate([[4], []], [], 3, GREEDY))


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = decoder(config())
    model.load_state_dict({"encoder.output_layernorm.weight": torch.full((32,), torch.nan)}, strict=False)
    with pytest.raises(UserError, match="logits are not finite"):
        next(Engine(model).generate([[4]], [], 3, GREEDY))
    with pytest.raises(UserError, match="logits are not finite"):
        beam_search(model, [[4]], [], 3, 2)
