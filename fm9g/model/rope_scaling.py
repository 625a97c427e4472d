"""The frequencies of rotary embeddings, and how models are made to reach further than they were trained for.

`linear` divides positions (Chen et al., https://arxiv.org/abs/2306.15595), `dynamic` raises the base (ModelConfig.
rotary_base), `llama3` stretches frequencies that turn seldom within the first length (https://arxiv.org/abs/2407.21783,
with the interpolation of Meta's code), `yarn` does so by dimension (Peng et al., https://arxiv.org/abs/2309.00071), and
`longrope` by factors that were searched for (Ding et al., https://arxiv.org/abs/2402.13753).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """[rotated / 2] float32 radians per position, the highest first."""
    exponents = torch.arange(0, config.rotated, 2, dtype=torch.int64).float() / config.rotated
    plain = 1.0 / (config.rotary_base**exponents)
    return _SCALED[config.rope_scaling_type](plain, config)


def _as_it_is(plain: Tensor, config: ModelConfig) -> Tensor:
    return plain


def _linear(plain: Tensor, config: ModelConfig) -> Tensor:
    return plain / config.rope_scaling_factor


def _llama3(plain: Tensor, config: ModelConfig) -> Tensor:
    low, high = config.rope_scaling_low_freq_factor, config.rope_scaling_high_freq_factor
    turns = plain * config.orig_max_length / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain * (kept + (1 - kept) / config.rope_scaling_factor)


def _yarn(plain: Tensor, config: ModelConfig) -> Tensor:
    def dimension(turns: float) -> float:
        """The one, of rotated / 2, that makes so many turns in the first length."""
        wavelength = config.orig_max_length / turns
        return config.rotated * math.log(wavelength / (2 * math.pi)) / (2 * math.log(config.base))

    first, last = dimension(config.rope_scaling_beta_fast), dimension(config.rope_scaling_beta_slow)
    if config.rope_scaling_truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.rotated - 1)
    width = last - first or 0.001
    stretched = ((torch.arange(len(plain), dtype=torch.float32) - first) / width).clamp(0, 1)
    return plain * (1 - stretched + stretched / config.rope_scaling_factor)


def _longrope(plain: Tensor, config: ModelConfig) -> Tensor:
    return plain / torch.tensor(config.rope_factors)


_SCALED: dict[str, Callable[[Tensor, ModelConfig], Tensor]] = {
    "": _as_it_is,
    "linear": _linear,
    "dynamic": _as_it_is,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
