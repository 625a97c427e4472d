"""FLOPs of a step, and what a GPU could do."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from fm9g.data.stream.strip import PADDING_TASK
from fm9g.model.config import ModelConfig
from fm9g.training.throughput import attention_squares, data_sheet_peak, model_flops, step_flops
from tests.support.runs_here import training_here

pytestmark = pytest.mark.usefixtures("single_rank")
LENGTH = 48


def counted_flops(model: Any) -> float:
    """Of training on LENGTH tokens, by torch, which counts every product, those of masked scores among them: these are
    halved. Norms are parameters of the usual formula, and are no products: they are added."""
    ids = torch.arange(LENGTH)[None]
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids).loss.backward()
    scores = 3 * 3 * 2 * 2 * 4 * 16 * LENGTH**2  # layers, passes, products of two FLOPs each, heads, dim_head
    norms = (2 * 3 + 1) * 64
    return counter.get_total_flops() - scores / 2 + 6 * norms * LENGTH


SHAPE: dict[str, Any] = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager"}


@pytest.mark.parametrize("tied", [False, True])
def test_model_flops_are_those_that_torch_counts_with_half_the_attention(tied):
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))  # type: ignore[call-arg]
    config = ModelConfig(96, 64, 4, 3, 80, num_kv_heads=2, tie_lm_head=tied)
    # some versions have a product for the rotary table
    assert model_flops(config, LENGTH, LENGTH**2) == pytest.approx(counted_flops(model), rel=1e-4)


def test_of_experts_those_that_a_token_has_are_counted():
    kernel: dict[str, Any] = {
        "experts_implementation": "eager"
    }  # from transformers 5 on; torch does not count its other ones
    theirs = MixtralConfig(**SHAPE, **kernel, num_local_experts=6, num_experts_per_tok=2)  # type: ignore[call-arg]
    config = ModelConfig(96, 64, 4, 3, 80, num_kv_heads=2, num_experts=6, experts_per_token=2)
    found = model_flops(config, LENGTH, LENGTH**2)
    assert found == pytest.approx(counted_flops(MixtralForCausalLM(theirs)), rel=1e-4)


def test_windows_and_groups_are_less_attention():
    """By counting which tokens see which, where the diagonal is nothing beside the rest."""
    lengths, window, group = [1500, 700], 200, 400
    config = ModelConfig(96, 64, 4, 3, 80, sliding_window=window, sliding_layers=(1,))
    seen = [torch.ones(length, length).tril() for length in lengths]
    narrow = sum(float((one - one.tril(-window)).sum()) for one in seen)
    whole = sum(float(one.sum()) for one in seen)
    assert attention_squares(config, lengths) == pytest.approx(2 * (2 * whole + narrow) / 3, rel=5e-3)
    halves = []
    for shift in (0, group // 2):
        groups = [(torch.arange(length) + shift) // group for length in lengths]
        halves.append(sum(float((one * (at[:, None] == at)).sum()) for one, at in zip(seen, groups, strict=True)))
    dense = ModelConfig(96, 64, 4, 3, 80)
    assert attention_squares(dense, lengths, group) == pytest.approx(sum(halves), rel=5e-3)


def test_padding_is_no_work(place, tmp_path):
    with training_here(place, tmp_path) as loop:
        batch = next(loop.stream.steps(loop.learner.units)).batch
    config = loop.stream.inputs.model_config
    lengths = [
        length
        for strip in batch.strips
        for length, task in zip(strip.lengths, strip.tasks, strict=True)
        if task != PADDING_TASK
    ]
    assert step_flops(config, batch) == sum(model_flops(config, length, length**2) for length in lengths)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H20", 148),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
    ],
)
def test_a_gpu_is_known_by_its_name(name, tera):
    assert data_sheet_peak(name) == tera * 1e12


def test_another_gpu_is_not_guessed_at():
    assert data_sheet_peak("NVIDIA GeForce GTX 1080") is None
