"""One training step of a decoder whose blocks were prepared, saved for comparison over numbers of ranks.

arguments: the file to write, and how blocks are prepared: none, freeze, adapt, lora or dora
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.lora.adapters import Adapters
from fm9g.lora.settings import LoraSettings
from fm9g.model.block import TransformerBlock
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder, Prepare
from fm9g.model.linear import Linear
from fm9g.runtime import bmt

RANK, STD = 4, 0.1


def freeze(module: torch.nn.Module) -> None:
    for parameter in module.parameters():  # not by its name, which would gather it from all ranks
        parameter.requires_grad_(False)


class LowRank(bmt.DistributedModule):
    """base(x) + up(down(x)), the base frozen: what an adapter does to a layer."""

    def __init__(self, base: Linear, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.base = base
        freeze(base)
        self.down = Linear(dim_in, RANK, STD, torch.float32)
        self.up = Linear(RANK, dim_out, STD, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def freeze_ffn(name: str, module: torch.nn.Module) -> None:
    if isinstance(module, TransformerBlock):
        freeze(module.ffn)


def adapt(name: str, module: torch.nn.Module) -> None:
    if isinstance(module, TransformerBlock):
        attention = module.self_att.self_attention
        attention.project_q = LowRank(attention.project_q, 32, 32)


def low_rank(**more: object) -> Prepare:
    """Adapters as a run has them, beside every layer."""
    settings = LoraSettings(lora=True, lora_layer=["all"], lora_r=RANK, **more)  # type: ignore[arg-type]
    return Adapters(settings, config).prepare


runtime.initialize(seed=3)
config = ModelConfig(
    vocab_size=61, dim_model=32, num_heads=4, num_kv_heads=2, num_layers=2, dim_ff=48, init_std=STD, dtype="float32"
)
PREPARE: dict[str, Callable[[], Prepare]] = {
    "none": lambda: lambda name, module: None,
    "freeze": lambda: freeze_ffn,
    "adapt": lambda: adapt,
    "lora": low_rank,
    "dora": lambda: low_rank(use_dora=True),
}
model = Decoder(config, use_checkpoint=True, prepare=PREPARE[sys.argv[2]]())
generator = torch.Generator().manual_seed(0)
start = {name: torch.ones(value.shape) for name, value in model.state_dict().items()}
for name in sorted(
    start, key=lambda name: ("down" in name or "up." in name or ".lora." in name, name)
):  # the same base with and without
    if "layernorm" not in name and "magnitude" not in name:
        start[name] = STD * torch.randn(start[name].shape, generator=generator)
model.load_state_dict(start)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
manager = bmt.optim.OptimManager(grad_scale=1)
# plain descent, whose steps show every gradient in proportion
manager.add_optimizer(torch.optim.SGD(trained, lr=1.0))
manager.zero_grad()
for row in range(runtime.rank(), 4, runtime.world_size()):
    tokens, targets = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(row)).to(runtime.device())
    manager.backward(model.loss(tokens, targets, model.context([9, 7]))[0] / 64)
stored = [name for name, value in model.named_parameters() if value.grad is not None]
manager.step()
end = model.state_dict()
if runtime.rank() == 0:
    moved = {name: end[name].cpu() - value for name, value in start.items()}
    torch.save({"moved": moved, "stored": stored}, sys.argv[1])
