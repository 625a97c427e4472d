"""Beam search: several continuations of a row are followed at once, and the likeliest per token is taken.

As transformers' generate has it with its own defaults (length_penalty 1, early_stopping False): a continuation that has
ended competes by its log-probability divided by its length, and a search ends when those that go on are, at their
length so far, no better than the worst of as many ended ones as there are beams.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.generation.engine import check_finite, check_prompts, have
from fm9g.generation.sampling import penalized
from fm9g.model.cache import Cache
from fm9g.model.decoder import Decoder


class _Candidate(NamedTuple):
    beam: int
    token: int
    score: float  # the sum of its log-probabilities


@dataclass
class _Search:
    """Of one prompt. `ended`: (score per token, tokens), the best first."""

    prompt: int
    beams: list[list[int]] = field(default_factory=lambda: [[]])
    scores: list[float] = field(default_factory=lambda: [0.0])
    ended: list[tuple[float, list[int]]] = field(default_factory=list)

    def take(self, candidates: Sequence[_Candidate], ends: Collection[int], width: int, last: bool) -> list[int]:
        """Go on with the best of `candidates`, which are in order; returns of which beam each is, [] at the end."""
        going: list[_Candidate] = []
        for place, candidate in enumerate(candidates):
            if not last and candidate.token not in ends:
                going.append(candidate)
            elif place < width:
                tokens = [*self.beams[candidate.beam], candidate.token]
                self.ended.append((candidate.score / len(tokens), tokens))
        self.ended = sorted(self.ended, key=lambda entry: -entry[0])[:width]
        del going[width:]
        if not going or (len(self.ended) == width and self._is_over(going[0])):
            return []
        self.beams = [[*self.beams[candidate.beam], candidate.token] for candidate in going]
        self.scores = [candidate.score for candidate in going]
        return [candidate.beam for candidate in going]

    def _is_over(self, best: _Candidate) -> bool:
        return best.score / (len(self.beams[best.beam]) + 1) <= self.ended[-1][0]


def beam_search(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    ends: Collection[int],
    max_new_tokens: int,
    width: int,
    repetition_penalty: float = 1.0,
    lockstep: bool = False,
) -> list[list[int]]:
    """The continuation of each prompt, up to one of `ends` (which is given too) or max_new_tokens; `width`: beams.

    `lockstep`: of several ranks, all do what the first one chooses.
    """
    check_prompts(prompts)
    model.eval()
    searches = [_Search(number) for number in range(len(prompts))]
    open_searches, cache = list(searches), Cache(len(prompts))
    seen = have(prompts, model.config.vocab_size) if repetition_penalty != 1 else None
    tokens, lengths = torch.tensor([token for prompt in prompts for token in prompt]), [len(p) for p in prompts]
    best_of = (1 + max(1, len(ends))) * width  # so many that `width` of them have not ended
    for step in range(max_new_tokens):
        scores = torch.tensor([score for search in open_searches for score in search.scores]).to(runtime.device())
        with torch.no_grad():
            logits = model.next_logits(tokens.to(runtime.device()), model.context(lengths, cache))
            check_finite(logits.amax(-1))
            log_probs = logits.log_softmax(-1)
            if seen is not None:
                log_probs = penalized(log_probs, seen, repetition_penalty)
            log_probs = log_probs + scores.unsqueeze(1)
            if lockstep:
                log_probs = runtime.broadcast(log_probs)
        rows: list[int] = []
        first = 0
        going = []
        for search in open_searches:
            count = len(search.beams)
            candidates = list(_best(log_probs[first : first + count], best_of))
            if beams := search.take(candidates, ends, width, step + 1 == max_new_tokens):
                rows += [first + beam for beam in beams]
                going.append(search)
            first += count
        if not rows:
            break
        open_searches = going
        cache.keep(rows)
        tokens = torch.tensor([beam[-1] for search in going for beam in search.beams])
        lengths = [1] * len(rows)
        if seen is not None:
            seen = seen[rows].scatter_(1, tokens.to(seen.device).unsqueeze(1), True)
    return [search.ended[0][1] for search in searches]


def _best(scores_BV: Tensor, count: int) -> Iterator[_Candidate]:
    vocabulary = scores_BV.size(1)
    best = scores_BV.flatten().topk(min(count, scores_BV.numel()))
    for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        yield _Candidate(place // vocabulary, place % vocabulary, score)
