"""The kinds of RoPE scaling: which fields of a model config they read, and what they multiply cos and sin by."""

from __future__ import annotations

import math

# The fields that a kind of RoPE scaling reads, beside `base`.
ROPE_SCALINGS: dict[str, tuple[str, ...]] = {
    "": (),
    "linear": ("rope_scaling_factor",),
    "dynamic": ("rope_scaling_factor", "orig_max_length"),
    "llama3": (
        *("rope_scaling_factor", "orig_max_length"),
        *("rope_scaling_low_freq_factor", "rope_scaling_high_freq_factor"),
    ),
    "yarn": (
        *("rope_scaling_factor", "orig_max_length", "rope_scaling_attention_factor"),
        *("rope_scaling_beta_fast", "rope_scaling_beta_slow", "rope_scaling_truncate"),
    ),
    "longrope": (
        *("rope_scaling_factor", "orig_max_length", "rope_scaling_attention_factor"),
        *("rope_scaling_short_factors", "rope_scaling_long_factors"),
    ),
}
FREQUENCY_BOUNDS = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """YaRN's attention factor for positions that are stretched by `factor` (section 3.4)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def longrope_magnitude(factor: float, length: int) -> float:
    """LongRoPE's, for a first length of so many positions (https://arxiv.org/abs/2402.13753, section 3.2)."""
    return math.sqrt(1 + math.log(factor) / math.log(length))
