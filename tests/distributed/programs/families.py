"""Finetune small models of families with adapters, and save what any number of ranks must agree on.

arguments: the file to write, the number of steps, and architectures
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from fm9g import runtime
from fm9g.lora.settings import LoraSettings
from fm9g.model.config import ModelConfig
from tests.support.families import config_of
from tests.support.small_training import train

LORA = LoraSettings(lora=True, lora_r=4, lora_alpha=8)


def config(name: str) -> ModelConfig:
    """With a loss of routers that shows beside that of targets."""
    made = config_of(name)
    return replace(made, router_loss=0.1) if made.num_experts else made


runtime.initialize(seed=3)
found = {name: train(config(name), {}, LORA, int(sys.argv[2]))[0] for name in sys.argv[3:]}
if runtime.rank() == 0:
    torch.save(found, sys.argv[1])
