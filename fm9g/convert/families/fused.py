"""What several families hold in one tensor: queries, keys and values; the halves of a gated feed-forward."""

from __future__ import annotations

from fm9g.convert.layouts import Layout

QKV = tuple(f"self_att.self_attention.project_{name}" for name in "qkv")
GATED = ("ffn.ffn.w_in.w_0", "ffn.ffn.w_in.w_1")
FUSED_GATE = Layout(("mlp.gate_up_proj",), GATED)
