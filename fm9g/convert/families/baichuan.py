"""Baichuan and Baichuan 2 (https://arxiv.org/abs/2309.10305): a LLaMA of 7B or, with ALiBi, of 13B; the second with a
head whose rows are normalised. The architecture names one of the four alone: other fields of config.json tell.
"""

from __future__ import annotations

from typing import Any

from fm9g.convert.families.family import NEUTRAL, Family, read_decoder, read_flag, refuse_mup, vocabulary_rows
from fm9g.convert.families.fused import QKV
from fm9g.convert.families.llama import LAYOUTS as LLAMA
from fm9g.convert.layouts import Layout
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

LAYOUTS = LLAMA.replacing(Layout(("self_attn.W_pack",), QKV))
ASSUMED = {"max_position_embeddings": 4096}
REFUSED: dict[str, Any] = {**NEUTRAL, "rope_theta": 10000.0, "rope_scaling": None, "rope_parameters": None}
UNREAD = ("head_dim", "num_key_value_heads")  # usual keys that its code does not read
FIRST, SECOND = 64000, 125696  # rows of the embedding, for either version's tokenizer
NAMES = {"baichuan2": True, "baichuan-13b": False}
ROTATED = {4096: True, 5120: False}  # by the width of the 7B and the 13B models
NORM_HEAD = "norm_head"  # our key, for a config.json that does not tell it otherwise
LENGTHS = ("max_position_embeddings", "model_max_length")  # of the 7B models' code, and of the 13B ones'


def _read_first_7b(values: dict[str, Any], where: str) -> ModelConfig:
    if values.get("vocab_size") == SECOND or values.get("z_loss_weight") is not None or values.get(NORM_HEAD):
        raise UserError(f"{where}: Baichuan 2's architecture is {FAMILY.architecture}, not {FIRST_7B.architecture}")
    return _decoder(values, FIRST_7B, where)


def _read(values: dict[str, Any], where: str) -> ModelConfig:
    own: dict[str, Any] = {"head_norm": _has_norm_head(values, where)}
    if _rotates(values, where):
        return _decoder(values, FAMILY, where, **own)
    return _decoder(values, FAMILY, where, {LENGTHS[0]: LENGTHS[1]}, position="alibi", **own)


def _decoder(
    values: dict[str, Any], family: Family, where: str, names: dict[str, str] | None = None, **own: Any
) -> ModelConfig:
    refuse_mup(values, family.architecture, where)
    return read_decoder(values, where, ASSUMED, REFUSED, names, unread=UNREAD, **own)


def _rotates(values: dict[str, Any], where: str) -> bool:
    """Whether it has rotary embeddings: only the 7B models' configs have max_position_embeddings."""
    rotates, width = values.get(LENGTHS[0]) is not None, values.get("hidden_size")
    if type(width) is int and ROTATED.get(width, rotates) != rotates:
        size, key = ("7B", LENGTHS[0]) if ROTATED[width] else ("13B", LENGTHS[1])
        raise UserError(
            f"{where}: hidden_size {width} is a {size} model's, which gives its length as {key} alone: for rotary "
            f"embeddings (7B) give {LENGTHS[0]}, for ALiBi (13B) {LENGTHS[1]} and no {LENGTHS[0]}"
        )
    return rotates


def _has_norm_head(values: dict[str, Any], where: str) -> bool:
    """Whether it is a Baichuan 2: by the rows of its tokenizer, the weight of the z-loss, which only that has, and the
    name of the model, or of the folder whose code runs it."""
    if values.get(NORM_HEAD) is not None:
        return read_flag(values, NORM_HEAD, False, where)
    rows = values.get("vocab_size")
    names = f"{values.get('_name_or_path')} {values.get('auto_map')}".lower()
    told = {rows == SECOND} if rows in (FIRST, SECOND) else set()
    told |= {True} if values.get("z_loss_weight") is not None else set()
    told |= {second for name, second in NAMES.items() if name in names}
    if len(told) != 1:
        raise UserError(
            f"{where}: vocab_size {shown(rows)}, z_loss_weight and the names in _name_or_path and auto_map "
            f"{'disagree on' if told else 'do not tell'} whether the rows of its head are normalised: add "
            f'"{NORM_HEAD}": true (Baichuan 2) or false (Baichuan)'
        )
    return told.pop()


def _rows(config: ModelConfig) -> dict[str, Any]:
    return {**vocabulary_rows(config), NORM_HEAD: config.head_norm}  # which other rows no longer tell


FIRST_7B = Family(
    architecture="BaiChuanForCausalLM",
    model_type=None,
    features=frozenset(),
    read_config=_read_first_7b,
    write_config=None,
    layouts=LAYOUTS,
    names_rope=False,
    models="Baichuan 7B",
    templates=("baichuan",),
    refused=REFUSED,
)
FAMILY = Family(
    architecture="BaichuanForCausalLM",
    model_type=None,
    features=frozenset(),
    read_config=_read,
    write_config=None,
    layouts=LAYOUTS,
    also=frozenset({"position", "head_norm"}),
    names_rope=False,
    rows=_rows,
    models="Baichuan 13B, Baichuan2 7B and 13B",
    templates=("baichuan", "baichuan2"),
    refused=REFUSED,
)
