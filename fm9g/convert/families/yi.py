"""Yi (https://arxiv.org/abs/2403.04652) with code of its own, as it had at first: a LLaMA with other names of norms."""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, refuse_mup
from fm9g.convert.families.llama import LAYOUTS as LLAMA
from fm9g.convert.layouts import renamed
from fm9g.model.config import ModelConfig

NORMS = {"self_att.layernorm_before_attention": "ln1", "ffn.layernorm_before_ffn": "ln2"}
LAYOUTS = LLAMA.replacing(*renamed(NORMS))
ASSUMED = {"max_position_embeddings": 4096, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 5e6}
REFUSED: dict[str, Any] = {**NEUTRAL, "rope_scaling": None, "rope_parameters": None}


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    refuse_mup(values, FAMILY.architecture, where)
    return read_decoder(values, where, ASSUMED, REFUSED, unread=("head_dim",))


FAMILY = Family(
    architecture="YiForCausalLM",
    model_type=None,
    features=frozenset(),
    read_config=_read,
    write_config=None,
    layouts=LAYOUTS,
    names_rope=False,
    models="Yi, as it was first published",
    templates=("yi",),
    refused=REFUSED,
)
