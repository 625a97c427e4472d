"""What families of experts share: their keys in a config.json, and where their tensors lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fm9g.convert.layouts import Layout, Layouts, renamed
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

# Layers of which some have no experts; jitter multiplies what goes into routers, in training
NEUTRAL: dict[str, Any] = {"mlp_only_layers": [], "decoder_sparse_step": 1, "router_jitter_noise": 0.0}


def expert_layouts(
    usual: Layouts, block: str, projections: tuple[str, str, str], more: Mapping[str, str] | None = None
) -> Layouts:
    """A family's `usual` layouts with experts, called `block` there, in the place of the feed-forward layer.

    `projections` are theirs for w_0, w_1 and w_out; `more`: theirs by ours, of what is there besides.
    """
    names = zip(("w_in.w_0", "w_in.w_1", "w_out"), projections, strict=True)
    kept = [layout for layout in usual.block if not layout.ours[0].startswith("ffn.ffn.")]
    return usual._replace(
        block=(
            *kept,
            *renamed({"ffn.ffn.router": f"{block}.gate", **(more or {})}),
            *(
                Layout((f"{block}.experts.{{}}.{theirs}",), (f"ffn.ffn.experts.{ours}",), each="experts")
                for ours, theirs in names
            ),
        )
    )


def whole_number(values: Mapping[str, Any], key: str, assumed: int, where: str) -> int:
    """A key's number, which must be positive: of ours, 0 says that there is no such thing."""
    value = assumed if values.get(key) is None else values[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where}: {key} must be a positive int, not {shown(value)}")
    return value


def shared_settings(values: Mapping[str, Any], per_token: int, where: str) -> dict[str, Any]:
    """Our fields from the keys that all these families have; `per_token` is what theirs assumes."""
    coefficient = values.get("router_aux_loss_coef")
    return {
        "experts_per_token": whole_number(values, "num_experts_per_tok", per_token, where),
        "router_loss": 0.001 if coefficient is None else coefficient,
    }


def written_experts(config: ModelConfig) -> dict[str, Any]:
    """The keys that all these families have."""
    return {
        "num_experts_per_tok": config.experts_per_token,
        "output_router_logits": False,
        "router_aux_loss_coef": config.router_loss,
    }
