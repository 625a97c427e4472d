"""Train small decoders on one global batch a step, and save what every tp_size must agree on.

arguments: the file to write, tp_size, the number of steps, and the names of CASES
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.generation.engine import Engine, continued
from fm9g.generation.sampling import Sampling
from fm9g.lora.settings import LoraSettings
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from tests.support.small_training import LENGTHS, read, train

BASE = ModelConfig(
    vocab_size=61, dim_model=32, num_heads=4, num_layers=2, dim_ff=48, init_std=0.1, dtype="float32", qkv_bias=True
)
LORA = LoraSettings(lora=True, lora_layer=["all"], lora_r=4, lora_alpha=8)
CASES: dict[str, tuple[ModelConfig, dict[str, Any], LoraSettings | None]] = {
    "heads": (BASE, {}, None),
    "grouped": (replace(BASE, num_kv_heads=2, tie_lm_head=True), {"use_checkpoint": True}, None),
    "one key head": (replace(BASE, num_kv_heads=1, qk_norm=True), {}, None),
    "alibi, layer norms, biases": (
        replace(
            BASE, norm="layer", embedding_norm=True, position="alibi", ffn_gated=False, ffn_bias=True, out_bias=True
        ),
        {"use_checkpoint": True},
        None,
    ),
    "branch norms, windows, soft caps": (
        replace(
            BASE,
            norm="rms_1p",
            branch_norm=True,
            num_kv_heads=2,
            sliding_window=4,
            sliding_layers=(0,),
            rotary_dim=4,
            attention_softcap=2.0,
            logit_softcap=3.0,
            head_norm=True,
        ),
        {},
        None,
    ),
    "groups of tokens": (replace(BASE, num_heads=8, num_kv_heads=4), {"group": 4, "use_checkpoint": True}, None),
    "biases, dora": (
        replace(BASE, out_bias=True, ffn_bias=True, position="alibi", num_kv_heads=1),
        {},
        replace(LORA, use_dora=True),
    ),
    "half": (replace(BASE, num_kv_heads=2, dtype="bf16"), {"use_checkpoint": True}, None),
    "lora": (replace(BASE, num_kv_heads=2), {}, LORA),
    "dora": (replace(BASE, num_kv_heads=2), {}, replace(LORA, use_dora=True)),
    "lora and embeddings": (BASE, {"use_checkpoint": True}, replace(LORA, modules_to_save=["input_embedding"])),
}


def told(model: Decoder, manager: Any) -> dict[str, Tensor]:
    """What a model says of a row, in each way; and the gradient that each token's log-probability gives."""
    tokens, targets = read(1)
    lengths = LENGTHS[1]
    found = {}
    with torch.no_grad():
        found["logits"] = model(tokens, model.context(lengths))
        found["next"] = model.next_logits(tokens, model.context(lengths))
        found["scores"], likeliest = model.scores(tokens, targets, model.context(lengths))
        found["likeliest"] = likeliest.float()
        factors = torch.linspace(0, 2, len(tokens), device=tokens.device)
        found["weighted"] = model.loss(tokens, targets, model.context(lengths), factors)[1]
    prompts = [tokens[:5].tolist(), tokens[5:6].tolist(), tokens[6:].tolist()]
    steps = Engine(model, lockstep=True).generate(prompts, (), 6, Sampling())
    found["generated"] = torch.tensor(continued(steps, len(prompts))).float()
    model.train()
    log_probs = model.log_probs(tokens, targets, model.context(lengths))
    found["log_probs"] = log_probs.detach()
    manager.zero_grad()
    (log_probs.tanh() * torch.arange(len(tokens))).sum().backward()
    squares = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    found["norm"] = torch.tensor(runtime.all_reduce(squares) / runtime.data_ranks() ** 2)
    return found


runtime.initialize(seed=3, tp_size=int(sys.argv[2]))
results = {}
for name in sys.argv[4:]:
    results[name], model, manager = train(*CASES[name], steps=int(sys.argv[3]))
    results[name]["told"] = told(model, manager)
if runtime.rank() == 0:
    torch.save(results, sys.argv[1])
