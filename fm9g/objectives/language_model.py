"""The next token: cross-entropy over the valid targets, a token a unit."""

from __future__ import annotations

from typing import Any

from fm9g.data.stream.strip import IGNORED, Strip
from fm9g.model.context import Context
from fm9g.model.decoder import Decoder
from fm9g.objectives.base import Cost, sums_by_piece, valid_targets


class LanguageModel:
    """Pretraining, and finetuning on documents of which some tokens are targets."""

    log_likelihood = True

    def __init__(self, model: Decoder, settings: Any) -> None:
        self._model = model

    def units(self, strip: Strip) -> list[int]:
        """[pieces]: valid targets."""
        return valid_targets(strip)

    def cost(self, strip: Strip, context: Context) -> Cost:
        """Nats, summed over valid targets; in an evaluation also the share of them that are the likeliest token."""
        if not self._model.training:
            losses_T, likeliest_T = self._model.scores(strip.tokens, strip.targets, context)
            accuracy = likeliest_T.sum(), (strip.targets != IGNORED).sum()
            return Cost(losses_T.sum(), sums_by_piece(losses_T.double(), strip.lengths), {"accuracy": accuracy})
        total, losses_T = self._model.loss(strip.tokens, strip.targets, context)
        return Cost(total, sums_by_piece(losses_T.double(), strip.lengths), {})
