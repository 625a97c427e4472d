"""ChatGLM2, ChatGLM3 and GLM-4 (https://arxiv.org/abs/2406.12793) with code and names of their own.

As in glm.py, the first half of each head is rotated, neighbours with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fm9g.convert.families.family import Family, read_decoder, read_flag, refuse_mup
from fm9g.convert.families.fused import GATED, QKV
from fm9g.convert.hf_rope import DEFAULT_THETA, SHARE
from fm9g.convert.layouts import Layout, Layouts, renamed
from fm9g.convert.orders import interleaved_in_one
from fm9g.errors import UserError, shown
from fm9g.model.config import ModelConfig

LAYOUTS = Layouts(
    ends=renamed(
        {
            "input_embedding": "transformer.embedding.word_embeddings",
            "encoder.output_layernorm": "transformer.encoder.final_layernorm",
            "lm_head": "transformer.output_layer",
        }
    ),
    layers="transformer.encoder.layers.",
    block=(
        *renamed(
            {
                "self_att.layernorm_before_attention": "input_layernorm",
                "self_att.self_attention.attention_out": "self_attention.dense",
                "ffn.layernorm_before_ffn": "post_attention_layernorm",
                "ffn.ffn.w_out": "mlp.dense_4h_to_h",
            }
        ),
        Layout(("self_attention.query_key_value",), QKV, interleaved_in_one),
        Layout(("mlp.dense_h_to_4h",), GATED),
    ),
)
NAMES = {
    "head_dim": "kv_channels",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "seq_length",
    "num_hidden_layers": "num_layers",
    "num_key_value_heads": "multi_query_group_num",
    "rms_norm_eps": "layernorm_epsilon",
    "vocab_size": "padded_vocab_size",
}
ASSUMED = {"head_dim": 128, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}
NEUTRAL: dict[str, Any] = {
    **{"apply_residual_connection_post_layernorm": False, "post_layer_norm": True, "original_rope": True},
    **{"pre_seq_len": None, "quantization_bit": 0, "quantization_config": None, "tie_word_embeddings": False},
}
FLAGS = {"add_bias_linear": False, "add_qkv_bias": False, "rmsnorm": True}  # by what they are if left out
OF_THE_FIRST = ("position_encoding_2d", "inner_hidden_size", "max_sequence_length")
GLM4_ROWS = 151552  # of the embedding, for GLM-4's tokenizer; ChatGLM2 and ChatGLM3 have 65024
# What the names of models with rope_ratio have in them, by whether it stretches positions, or else RoPE's base.
STRETCHES = {"chatglm2": True, "chatglm3": False, "codegeex4": False, "glm-4": False, "glm4": False, "longalign": False}


def _reads(architecture: str) -> Callable[[dict[str, Any], str], ModelConfig]:
    return lambda values, where: _decoder(values, architecture, where)


def _decoder(values: dict[str, Any], architecture: str, where: str) -> ModelConfig:
    refuse_mup(values, architecture, where)
    for key in OF_THE_FIRST:
        if values.get(key) is not None:
            raise UserError(
                f"{where}: {key} is of the first ChatGLM-6B, a model with positions of two dimensions, which is not "
                "supported; ChatGLM2-6B and later ones are"
            )
    flags = {key: read_flag(values, key, usual, where) for key, usual in FLAGS.items()}
    if values.get("multi_query_attention") is not True:
        raise UserError(
            f"{where}: multi_query_attention must be true, not {shown(values.get('multi_query_attention'))}: without "
            "it, queries, keys and values lie head by head, which no published model has"
        )
    fixed = {"hidden_act": "silu", SHARE: 0.5, "rope_parameters": None, **_rope(values, where)}
    all_biases = flags["add_bias_linear"]
    own: dict[str, Any] = {"out_bias": all_biases, "ffn_bias": all_biases}
    own["qkv_bias"] = all_biases or flags["add_qkv_bias"]
    own_norm = "rms" if flags["rmsnorm"] else "layer"
    return read_decoder({**values, **fixed}, where, ASSUMED, NEUTRAL, NAMES, share=0.5, norm=own_norm, **own)


def _rope(values: dict[str, Any], where: str) -> dict[str, Any]:
    """rope_ratio in transformers' keys: to ChatGLM2's code it divides positions, to later ones' it raises the base."""
    ratio = values.get("rope_ratio")
    if ratio is None or ratio == 1:
        return {"rope_theta": DEFAULT_THETA, "rope_scaling": None}
    if type(ratio) not in (int, float) or not ratio > 0:
        raise UserError(f"{where}: rope_ratio must be a positive number, not {shown(ratio)}")
    if _stretches(values, where):
        return {"rope_theta": DEFAULT_THETA, "rope_scaling": {"type": "linear", "factor": ratio}}
    return {"rope_theta": DEFAULT_THETA * ratio, "rope_scaling": None}


def _stretches(values: dict[str, Any], where: str) -> bool:
    """Whether rope_ratio divides positions: by the model's name, or the tokenizer that only GLM-4 has."""
    names = f"{values.get('_name_or_path')} {values.get('auto_map')}".lower()
    told = {stretches for name, stretches in STRETCHES.items() if name in names}
    rows = values.get("padded_vocab_size")
    told |= {False} if type(rows) is int and rows >= GLM4_ROWS else set()
    if len(told) != 1:
        raise UserError(
            f"{where}: rope_ratio divides positions in ChatGLM2's code, and raises RoPE's base in ChatGLM3's: set "
            '"_name_or_path" to "THUDM/chatglm2-6b-32k" or to "THUDM/chatglm3-6b-32k", by which it is'
        )
    return told.pop()


def _rows(config: ModelConfig) -> dict[str, Any]:
    return {"padded_vocab_size": config.vocab_size, "vocab_size": config.vocab_size}


FAMILY, CONDITIONAL = (
    Family(
        architecture=architecture,
        model_type=None,
        features=frozenset({"rotary_dim"}),
        read_config=_reads(architecture),
        write_config=None,
        layouts=LAYOUTS,
        also=frozenset({"qkv_bias", "out_bias", "ffn_bias", "norm"}),
        names_rope=False,
        rows=_rows,
        models="ChatGLM2-6B, ChatGLM3-6B, GLM-4-9B with its own code",
        templates=("chatglm2", "chatglm3"),
        refused=NEUTRAL,
    )
    for architecture in ("ChatGLMModel", "ChatGLMForConditionalGeneration")
)
