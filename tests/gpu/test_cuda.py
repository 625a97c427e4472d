"""On a GPU the kernels compute what the plain reference on the CPU computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fm9g.model.attention import choose_kernel, plain_attention
from fm9g.model.cross_entropy import linear_cross_entropy
from fm9g.model.packed import Packed

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = [7, 130, 1, 62]


def strips(kv_heads: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    total = sum(LENGTHS)
    return [torch.randn(total, heads, 64).bfloat16() for heads in (8, kv_heads, kv_heads)]


@pytest.mark.parametrize("kv_heads", [8, 2])
def test_the_best_attention_kernel_equals_the_reference(kv_heads: int) -> None:
    _, kernel = choose_kernel("cuda", torch.bfloat16, on_cuda=True)
    on_cpu = strips(kv_heads)
    expected = plain_attention(*(x.float() for x in on_cpu), Packed.from_lengths(LENGTHS, torch.device("cpu")))
    found = kernel(*(x.cuda() for x in on_cpu), Packed.from_lengths(LENGTHS, torch.device("cuda")))
    # two bf16 roundings (weights and output) of values below 4
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)


def test_the_chunked_loss_equals_float64() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 64), torch.randn(1000, 64)
    targets = torch.randint(0, 1000, (300,))
    targets[::7] = -100
    expected = torch.nn.functional.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="sum")
    total, losses = linear_cross_entropy(hidden.cuda(), weight.cuda(), targets.cuda())
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses.sum().item() == pytest.approx(expected.item(), rel=1e-4)


BACKEND_PROGRAM = """
import json, sys, torch
from fm9g import runtime
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.model.packed import Packed

runtime.initialize(seed=1)
model = Decoder(ModelConfig(vocab_size=256, dim_model=128, num_heads=2, num_layers=2, dim_ff=256, dtype="bf16"))
generator = torch.Generator().manual_seed(0)
weights = {
    name: torch.randn(tuple(p._original_shape), generator=generator).mul(0.05).add(1.0 if "norm" in name else 0.0)
    for name, p in model.named_parameters()
}
model.load_state_dict(weights)
optimizer = runtime.bmt.optim.AdamOptimizer(model.parameters(), lr=1e-3, weight_decay=0.1)
manager = runtime.bmt.optim.OptimManager(grad_scale=1)
manager.add_optimizer(optimizer)
tokens = torch.randint(0, 256, (257,), generator=generator).to(runtime.device())
packed = Packed.from_lengths([100, 156], runtime.device())
losses = []
for _ in range(10):
    manager.zero_grad()
    total, _ = model.loss(tokens[:-1], tokens[1:], packed)
    manager.backward(total / 256)
    manager.clip_grad_norm(optimizer.param_groups, 1.0)
    manager.step()
    losses.append(total.item() / 256)
print(json.dumps(losses))
"""


def train_on(backend: str) -> list[float]:
    environment = {**os.environ, "FM9G_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BACKEND_PROGRAM]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_the_portable_backend_trains_to_the_losses_of_the_cpu() -> None:
    # bf16 keeps 8 bits: 0.4 % a rounding, and ten steps do not let it grow beyond 1 %
    assert train_on("portable") == pytest.approx(train_on("cpu"), rel=1e-2)
