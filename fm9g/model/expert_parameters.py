"""The tensors of a feed-forward layer of experts.

    router             experts             rows of the choice's scores, one for each expert
    experts.w_in.w_0   experts_ff x dim    rows of the first expert, of the second, …
    experts.w_out      experts_dim x expert_ff

Experts' matrices are stacked by rows, so that storage, optimizer and checkpoints see plain matrices.
"""

from __future__ import annotations

from fm9g.model.config import ModelConfig

NamedAxes = tuple[str, tuple[str, ...]]
STACKED = {"experts_ff": "expert_ff", "experts_dim": "dim"}
"""{axis of all experts' rows: that of one expert's}."""
ROUTER: NamedAxes = ("ffn.ffn.router.weight", ("experts", "dim"))
EXPERTS: tuple[NamedAxes, ...] = (
    ("ffn.ffn.experts.w_in.w_0.weight", ("experts_ff", "dim")),
    ("ffn.ffn.experts.w_in.w_1.weight", ("experts_ff", "dim")),
    ("ffn.ffn.experts.w_out.weight", ("experts_dim", "expert_ff")),
)
SHARED: tuple[NamedAxes, ...] = (
    ("ffn.ffn.shared_expert.w_in.w_0.weight", ("shared_ff", "dim")),
    ("ffn.ffn.shared_expert.w_in.w_1.weight", ("shared_ff", "dim")),
    ("ffn.ffn.shared_expert.w_out.weight", ("dim", "shared_ff")),
    ("ffn.ffn.shared_expert_gate.weight", ("gate", "dim")),
)


def expert_sizes(config: ModelConfig) -> dict[str, int]:
    """The length of each axis that experts alone have."""
    return {
        "experts": config.num_experts,
        "experts_ff": config.num_experts * config.dim_expert,
        "experts_dim": config.num_experts * config.dim_model,
        "expert_ff": config.dim_expert,
        "shared_ff": config.dim_shared_expert,
        "gate": 1,
    }


def expert_tensors(config: ModelConfig) -> list[NamedAxes]:
    """The tensors of a block from the router on, in the order of a forward pass."""
    return [ROUTER, *EXPERTS, *(SHARED if config.dim_shared_expert else ())]


def active_share(config: ModelConfig, axes: tuple[str, ...]) -> float:
    """The share of a tensor with these axes that a token is multiplied by: of all experts, those that it has."""
    return config.experts_per_token / config.num_experts if axes[0] in STACKED else 1.0
