"""A toy objective: the next token, and 1e-2 log(Z)² of each target, as PaLM has it (https://arxiv.org/abs/2204.02311)."""

from typing import Any

from torch import Tensor

from fm9g.data.stream.strip import Strip
from fm9g.model.context import Context
from fm9g.model.decoder import Decoder
from fm9g.objectives.base import Cost, counted, sums_by_piece, valid_targets


class ZLoss:
    """Cross-entropy and z-loss, a target a unit."""

    log_likelihood = False

    def __init__(self, model: Decoder, settings: Any) -> None:
        self._model = model

    def units(self, strip: Strip) -> list[float]:
        return valid_targets(strip)

    def cost(self, strip: Strip, context: Context) -> Cost:
        logits_TV = self._model(strip.tokens, context).float()
        counted_T = counted(strip)
        log_z_T = logits_TV.logsumexp(-1)
        nll_T = log_z_T - logits_TV.gather(1, strip.targets.clamp(min=0)[:, None]).squeeze(1)
        loss_T = (nll_T + 1e-2 * log_z_T.square()) * counted_T
        log_z: tuple[Tensor, Tensor] = ((log_z_T * counted_T).sum(), counted_T.sum())
        return Cost(loss_T.sum(), sums_by_piece(loss_T.detach().double(), strip.lengths), {"log_z": log_z})
