"""Generation: rows of token ids in, one more token of each a step; a row that has ended leaves the batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.errors import UserError
from fm9g.generation.sampling import Sampling
from fm9g.model.cache import Cache
from fm9g.model.decoder import Decoder


class Token(NamedTuple):
    """What a row goes on with. `log_prob` is of the model itself, whatever the sampling."""

    row: int
    token: int
    log_prob: float
    ended: bool


class Engine:
    """Continues rows with a model, which it puts in evaluation mode."""

    def __init__(self, model: Decoder) -> None:
        self._model = model.eval()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        ends: Collection[int],
        max_new_tokens: int,
        sampling: Sampling,
        seed: int = 0,
    ) -> Iterator[list[Token]]:
        """The next token of each row that goes on, step by step.

        A row ends with a token of `ends`, which is given too, or with its max_new_tokens.
        """
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(f"prompt {number} has no token: there is nothing to continue")
        device = runtime.device()
        generator = torch.Generator(device).manual_seed(seed)
        rows, cache = list(range(len(prompts))), Cache(len(prompts))
        seen = self._seen(prompts) if sampling.repetition_penalty != 1 else None
        tokens, lengths = torch.tensor([token for prompt in prompts for token in prompt]), [len(p) for p in prompts]
        for step in range(max_new_tokens):
            with torch.no_grad():
                logits = self._model.next_logits(tokens.to(device), self._model.context(lengths, cache))
                chosen = sampling.choose(logits, seen, generator)
                log_probs = logits.log_softmax(-1).gather(1, chosen.unsqueeze(1)).squeeze(1)
            if seen is not None:
                seen.scatter_(1, chosen.unsqueeze(1), True)
            last = step + 1 == max_new_tokens
            made = [
                Token(row, token, log_prob, last or token in ends)
                for row, token, log_prob in zip(rows, chosen.tolist(), log_probs.tolist(), strict=True)
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

    def _seen(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """[rows, vocab_size]: whether a row has a token."""
        seen = torch.zeros(len(prompts), self._model.config.vocab_size, dtype=torch.bool)
        for row, prompt in zip(seen, prompts, strict=True):
            row[list(prompt)] = True
        return seen.to(runtime.device())


def continued(steps: Iterator[list[Token]], rows: int) -> list[list[int]]:
    """All tokens of each row."""
    found: list[list[int]] = [[] for _ in range(rows)]
    for step in steps:
        for token in step:
            found[token.row].append(token.token)
    return found
