"""How much of the device's arithmetic a run uses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import torch

from fm9g import runtime
from fm9g.data.stream.loader import StepBatch
from fm9g.data.stream.strip import PADDING_TASK
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import TORCH_DTYPES
from fm9g.model.expert_parameters import active_share
from fm9g.model.parameters import parameters
from fm9g.model.shifted import cut

# dense bf16/fp16 tensor-core peaks, FLOP/s, from the vendor's data sheets
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L20": 119e12,
    "RTX 4090": 165e12,
    "A10": 125e12,
    "V100": 125e12,
}
_MEASURED_SIZE = 8192


def model_flops(config: ModelConfig, tokens: int, squares: float, frozen: bool = False) -> float:
    """Model FLOPs of training on some tokens, forward and backward, recomputation not counted.

    `frozen`: of a model that stays as it is, beside which small adapters learn; 4 instead of 6, for there are no
    gradients of weights.

    6 for each parameter but the input embedding and token (Kaplan et al., https://arxiv.org/abs/2001.08361), of experts
    those that a token has, and 6 · heads · dim_head · length² for the causal attention of each document and layer;
    `squares` is the sum of the documents' length², or of what counts as that (see attention_squares).
    """
    # a tied embedding is the head, too
    without = () if config.tie_lm_head else ("embedding",)
    multiplied = sum(
        parameter.numel * active_share(config, parameter.axes)
        for parameter in parameters(config)
        if parameter.role not in without
    )
    attention = 6 * config.num_layers * config.num_heads * config.dim_head * squares
    return (4.0 if frozen else 6.0) * multiplied * tokens + attention


def attention_squares(config: ModelConfig, lengths: Sequence[int], group: int = 0) -> float:
    """Twice the pairs of a token and one that it attends to, in the mean of layers and heads: of a document that is
    attended to as a whole its length². `group`: of S²-Attn, as the decoder has it."""
    if group:
        halves = (cut(lengths, group, shift) for shift in (0, group // 2))
        return sum(attention_squares(config, parts) for parts in halves) / 2
    windows = Counter(config.windows)
    pairs = sum(
        layers * length * length if not 0 < window < length else layers * window * (2 * length - window)
        for window, layers in windows.items()
        for length in lengths
    )
    return pairs / config.num_layers


def step_flops(config: ModelConfig, batch: StepBatch, frozen: bool = False, group: int = 0) -> float:
    """Model FLOPs of this rank's part of a step; `frozen` as in model_flops, `group` as in attention_squares."""
    lengths = [
        length
        for strip in batch.strips
        for length, task in zip(strip.lengths, strip.tasks, strict=True)
        if task != PADDING_TASK
    ]
    return model_flops(config, sum(batch.tokens), attention_squares(config, lengths, group), frozen)


def data_sheet_peak(device: str) -> float | None:
    """The peak FLOP/s in half types of a GPU of this name; None for one that is not known."""
    return next((peak for known, peak in PEAKS.items() if known in device), None)


def peak_flops(dtype_name: str) -> float | None:
    """A GPU's peak FLOP/s: the data sheet's for a known one and half types, else that of a measured product.

    None on a CPU, where a product measured beside whatever else runs there says nothing.
    """
    if not runtime.backend.on_cuda:
        return None
    if dtype_name != "float32" and (known := data_sheet_peak(runtime.device_name())):
        return known
    size = _MEASURED_SIZE
    a = torch.ones(size, size, dtype=TORCH_DTYPES[dtype_name], device=runtime.device())
    fastest = float("inf")
    for _ in range(4):
        runtime.synchronize_device()
        started = time.perf_counter()
        a @ a
        runtime.synchronize_device()
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest
