"""How evenly routers share tokens out among experts, and the loss that asks them to."""

from __future__ import annotations

import torch
from torch import Tensor


class Balance:
    """Made for a strip and given to its forward pass in the context: that leaves in it what all routers chose.

    `counted_T`, [T] bool, are the tokens that count; None: all of them.
    """

    def __init__(self, counted_T: Tensor | None = None) -> None:
        self._counted_T1 = None if counted_T is None else counted_T[:, None]
        self.sums: Tensor | None = (
            None  # [2, experts] over all layers and the tokens that count: choices, probabilities
        )

    def of_layer(self, scores_TE: Tensor, chosen_Tk: Tensor) -> Tensor:
        """What one router adds to `sums`, float32: how often each expert was chosen, and with gradient its scores."""
        choices_TE = torch.zeros_like(scores_TE).scatter_(1, chosen_Tk, 1.0)  # of a token, each expert at most once
        if self._counted_T1 is not None:
            choices_TE, scores_TE = choices_TE * self._counted_T1, scores_TE * self._counted_T1
        return torch.stack([choices_TE.sum(0), scores_TE.sum(0)])

    def loss(self, experts_per_token: int) -> Tensor:
        """[]: experts · Σ_e f_e P_e, f_e how often expert e was chosen and P_e its probability, a token and layer.

        Equations 4-6 of Fedus et al. (https://arxiv.org/abs/2101.03961) with means over tokens and layers at once, as
        transformers has them: `experts_per_token` where all experts are chosen alike, more where they are not.
        """
        assert self.sums is not None, "no forward pass has been given this"
        choices_E, scores_E = self.sums
        routed = (choices_E.sum() / experts_per_token).clamp(min=1)  # tokens times layers; of padding alone there is 0
        return len(choices_E) * (choices_E / routed * (scores_E / routed)).sum()
