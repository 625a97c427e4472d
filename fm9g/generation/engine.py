"""Generation: rows of token ids in, one more token of each a step; a row that has ended leaves the batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.errors import UserError
from fm9g.generation.sampling import Sampling
from fm9g.model.cache import Cache
from fm9g.model.decoder import Decoder


class Token(NamedTuple):
    """What a row goes on with. `log_prob` is of the model itself, whatever the sampling, and `likeliest` are the tokens
    that it has for the likeliest, with theirs."""

    row: int
    token: int
    log_prob: float
    ended: bool
    likeliest: tuple[tuple[int, float], ...] = ()


def never(row: int, token: int) -> bool:
    """A row ends with a token or its length alone."""
    return False


class Engine:
    """Continues rows with a model, which is put in evaluation mode when it does.

    `lockstep`: of several ranks, all take the tokens that the first one chooses.
    """

    def __init__(self, model: Decoder, lockstep: bool = False) -> None:
        self._model, self._lockstep = model, lockstep

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        ends: Collection[int],
        max_new_tokens: int,
        sampling: Sampling,
        seed: int = 0,
        over: Callable[[int, int], bool] = never,
        likeliest: int = 0,
    ) -> Iterator[list[Token]]:
        """The next token of each row that goes on, step by step, with so many of the likeliest.

        A row ends with a token of `ends`, which is given too, with one of which `over(row, token)` says so, or with its
        max_new_tokens.
        """
        check_prompts(prompts)
        self._model.eval()
        device = runtime.device()
        generator = torch.Generator(device).manual_seed(seed)
        rows, cache = list(range(len(prompts))), Cache(len(prompts))
        seen = have(prompts, self._model.config.vocab_size) if sampling.repetition_penalty != 1 else None
        tokens, lengths = torch.tensor([token for prompt in prompts for token in prompt]), [len(p) for p in prompts]
        for step in range(max_new_tokens):
            with torch.no_grad():
                logits = self._model.next_logits(tokens.to(device), self._model.context(lengths, cache))
                check_finite(logits.amax(-1))
                chosen = sampling.choose(logits, seen, generator)
                if self._lockstep:
                    chosen = runtime.broadcast(chosen)
                log_probs = logits.log_softmax(-1)
                told = log_probs.gather(1, chosen.unsqueeze(1)).squeeze(1)
                best = _likeliest(log_probs, likeliest)
            if seen is not None:
                seen.scatter_(1, chosen.unsqueeze(1), True)
            last = step + 1 == max_new_tokens
            made = [
                Token(row, token, log_prob, over(row, token) or last or token in ends, others)
                for row, token, log_prob, others in zip(rows, chosen.tolist(), told.tolist(), best, strict=True)
            ]
            yield made
            going = [i for i, token in enumerate(made) if not token.ended]
            if not going:
                return
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                cache.keep(going)
                chosen, seen = chosen[going], None if seen is None else seen[going]
            tokens, lengths = chosen, [1] * len(going)


def _likeliest(log_probs_RV: Tensor, count: int) -> list[tuple[tuple[int, float], ...]]:
    """Of each row, its `count` likeliest tokens with their log-probabilities."""
    best = log_probs_RV.topk(min(count, log_probs_RV.size(1)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [tuple(zip(tokens, values, strict=True)) for tokens, values in pairs]


def check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    """Refuse a prompt that has nothing to go on from."""
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {number} has no token: there is nothing to continue")


def check_finite(largest_R: Tensor) -> None:
    """Refuse to go on with logits, by the largest of each row, that are no numbers."""
    if not bool(largest_R.isfinite().all()):
        raise UserError("the model's logits are not finite: its weights are damaged, or its dtype is too narrow")


def have(prompts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """[rows, vocab_size] bool: whether a row has a token."""
    found = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, prompt in zip(found, prompts, strict=True):
        row[list(prompt)] = True
    return found.to(runtime.device())


def continued(steps: Iterator[list[Token]], rows: int) -> list[list[int]]:
    """All tokens of each row."""
    found: list[list[int]] = [[] for _ in range(rows)]
    for step in steps:
        for token in step:
            found[token.row].append(token.token)
    return found
