"""How tensor parallelism cuts a model: which shapes a group of ranks can share, and what each rank has.

A rank has a part of the heads and of dim_ff. Where there are fewer key heads than ranks, all ranks have all of them.
"""

from __future__ import annotations

from fm9g.errors import UserError
from fm9g.model.config import ModelConfig


def check_cut(config: ModelConfig, ranks: int) -> None:
    """A UserError for a model that `ranks` cannot share alike."""
    if config.num_experts and ranks > 1:
        raise UserError(f"tp_size {ranks}: a model of experts (num_experts {config.num_experts}) needs tp_size 1")
    for name in ("num_heads", "dim_ff"):
        if getattr(config, name) % ranks:
            raise UserError(f"tp_size {ranks} does not divide {name} {getattr(config, name)} of the model config")
    if not cuts_keys(config, ranks) and ranks % config.num_kv_heads:
        raise UserError(
            f"tp_size {ranks} neither divides num_kv_heads {config.num_kv_heads} of the model config nor is a multiple "
            "of it"
        )


def cuts_keys(config: ModelConfig, ranks: int) -> bool:
    """Whether the projections of keys and values are cut, too."""
    return config.num_kv_heads % ranks == 0


def part(whole: int, ranks: int) -> int:
    """What each of `ranks` has of so many, which they share alike."""
    assert whole % ranks == 0, f"{whole} cannot be dealt to {ranks} ranks alike"
    return whole // ranks
