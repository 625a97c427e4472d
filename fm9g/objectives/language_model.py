"""The next token: cross-entropy over the valid targets, a token as many units as it weighs: one, if nobody says."""

from __future__ import annotations

from typing import Any

from fm9g.data.stream.strip import Strip
from fm9g.model.context import Context
from fm9g.model.decoder import Decoder
from fm9g.objectives.base import Cost, counted, sums_by_piece, valid_targets
from fm9g.objectives.router import watched, with_router_loss


class LanguageModel:
    """Pretraining, and finetuning on documents of which some tokens are targets."""

    log_likelihood = True

    def __init__(self, model: Decoder, settings: Any) -> None:
        self._model = model

    def units(self, strip: Strip) -> list[float]:
        """[pieces]: valid targets, by their weights."""
        return valid_targets(strip)

    def cost(self, strip: Strip, context: Context) -> Cost:
        """Nats, summed over valid targets by their weights, and in training the loss of routers; in an evaluation also
        the share of those that are the likeliest token."""
        if not self._model.training:
            losses_T, likeliest_T = self._model.scores(strip.tokens, strip.targets, context)
            counted_T = counted(strip)
            accuracy = (likeliest_T * counted_T).sum(), counted_T.sum()
            losses_T = losses_T if strip.weights is None else losses_T * strip.weights
            return Cost(losses_T.sum(), sums_by_piece(losses_T.double(), strip.lengths), {"accuracy": accuracy})
        config, context = self._model.config, watched(self._model.config, strip, context)
        total, losses_T = self._model.loss(strip.tokens, strip.targets, context, strip.weights)
        cost = Cost(total, sums_by_piece(losses_T.double(), strip.lengths), {})
        return with_router_loss(config, cost, strip, context)
