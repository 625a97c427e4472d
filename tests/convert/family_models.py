"""Random models of every architecture that is converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.convert.helpers import save
from tests.convert.references.chatglm import ChatGLM
from tests.convert.references.internlm2 import InternLM2
from tests.convert.references.llama_like import (
    FM9G,
    Baichuan,
    Baichuan2Of7B,
    Baichuan2Of13B,
    Baichuan13B,
    InternLM,
    MiniCPM,
    Yi,
)
from tests.convert.references.parts import Reference
from tests.convert.references.qwen import Qwen

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
    "pad_token_id": None,  # its row of the embedding would learn nothing
}
# Of YaRN, what versions before 5 took for what is named; max_position_embeddings is the same to all
FIRST_LENGTH = 128 if transformers.__version__.startswith("4.") else 32
BLOOM = {"n_layer": 2, "n_head": 4}
# transformers' name of the family and what its config says beside SHAPE, or a reference and what its config says
ROWS: dict[str, tuple[str | type[Reference], dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2", {"sliding_window": 16, "use_sliding_window": False}),
    "qwen2, a window": ("Qwen2", {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1}),
    "mistral": ("Mistral", {"sliding_window": 7, "head_dim": 24}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "phi3": ("Phi3", {}),
    "phi3, rotated in part, a window": (
        "Phi3",
        {"sliding_window": 7, "partial_rotary_factor": 0.5, "tie_word_embeddings": True},
    ),
    "gemma": ("Gemma", {"head_dim": 24}),
    "gemma2": (
        "Gemma2",
        {
            **{"head_dim": 24, "sliding_window": 7, "query_pre_attn_scalar": 10},
            **{"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
        },
    ),
    "gemma2, no caps": (
        "Gemma2",
        {
            **{"head_dim": 16, "query_pre_attn_scalar": 16},
            **{"attn_logit_softcapping": None, "final_logit_softcapping": None},
        },
    ),
    "bloom": ("Bloom", BLOOM),
    "bloom, heads that are no power of two": ("Bloom", {**BLOOM, "hidden_size": 60, "n_head": 6}),
    "mistral, a window as long as any text": ("Mistral", {"sliding_window": 128}),
    "llama, llama3 RoPE": (
        "Llama",
        {
            "rope_theta": 5e5,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "llama, YaRN": (
        "Llama",
        {
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": FIRST_LENGTH},
        },
    ),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    "mixtral, all experts": ("Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 3, "rope_theta": 1e4}),
    "qwen2-moe": (
        "Qwen2Moe",
        {
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
        },
    ),
    "mixtral, a window": ("Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 7}),
    "qwen2-moe, a window": (
        "Qwen2Moe",
        {
            **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
            **{"shared_expert_intermediate_size": 40, "use_sliding_window": True, "sliding_window": 7},
            "num_hidden_layers": 3,
        },
    ),
    "qwen": (Qwen, {}),
    "qwen, rotated in part, biases": (Qwen, {"rotary_pct": 0.5, "no_bias": False, "rotary_emb_base": 1000000}),
    "baichuan 7b": (Baichuan, {}),
    "baichuan 13b": (Baichuan13B, {"hidden_size": 60, "num_attention_heads": 6}),
    "baichuan 2 7b": (Baichuan2Of7B, {}),
    "baichuan 2 13b": (Baichuan2Of13B, {}),
    "chatglm2": (ChatGLM, {}),
    "chatglm2, 32k": (ChatGLM, {"stretches": True, "rope_ratio": 4, "_name_or_path": "THUDM/chatglm2-6b-32k"}),
    "chatglm3, 32k": (
        ChatGLM,
        {
            **{"architectures": ["ChatGLMForConditionalGeneration"], "rope_ratio": 50, "multi_query_group_num": 1},
            "auto_map": {"AutoModel": "THUDM/chatglm3-6b-32k--modeling_chatglm.ChatGLMForConditionalGeneration"},
        },
    ),
    "chatglm, layer norms, biases": (ChatGLM, {"rmsnorm": False, "add_bias_linear": True, "add_qkv_bias": False}),
    "internlm": (InternLM, {}),
    "internlm, no biases": (InternLM, {"bias": False, "rotary": {"base": 10000, "type": "origin"}}),
    "internlm2": (InternLM2, {}),
    "internlm2, biases": (InternLM2, {"bias": True, "num_key_value_heads": 4, "rope_scaling": None}),
    "yi": (Yi, {}),
    "minicpm": (MiniCPM, {}),
    "minicpm, a head of its own, key heads": (MiniCPM, {"tie_word_embeddings": False, "num_key_value_heads": 2}),
    "fm9g": (FM9G, {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "tie_word_embeddings": False}),
    "fm9g, no muP": (FM9G, {}),
}
if hasattr(transformers, "Qwen3Config"):  # from 4.51 on
    ROWS["qwen3"] = ("Qwen3", {"head_dim": 24})
    ROWS["qwen3, one key head, tied"] = (
        "Qwen3",
        {"head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": True},
    )
if hasattr(transformers, "GlmConfig"):  # from 4.46 on
    ROWS["glm"] = (
        "Glm",
        {
            "head_dim": 24,
        },
    )
    ROWS["glm, rotated whole"] = ("Glm", {"head_dim": 16, "partial_rotary_factor": 1.0, "attention_bias": False})
if hasattr(transformers, "Glm4Config"):  # from 4.51 on
    ROWS["glm4"] = ("Glm4", {"head_dim": 16, "num_key_value_heads": 1})
if hasattr(transformers, "Qwen3MoeConfig"):  # from 4.51 on
    EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    ROWS["qwen3-moe"] = ("Qwen3Moe", {**EXPERTS, "head_dim": 24, "norm_topk_prob": True})
    ROWS["qwen3-moe, a window"] = (
        "Qwen3Moe",
        {**EXPERTS, "head_dim": 16, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    )
    ROWS["qwen3-moe, weights as they are"] = ("Qwen3Moe", {**EXPERTS, "tie_word_embeddings": True})

# Before, transformers ignored windows here, of some layers or of eager attention, and the share that is rotated
RIGHT_FROM = {
    "qwen2, a window": (4, 53),
    "phi3, rotated in part, a window": (4, 49),
    "mixtral, a window": (4, 53),
    "qwen2-moe, a window": (4, 53),
}
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
COMPARED = [row for row in ROWS if RIGHT_FROM.get(row, VERSION) <= VERSION]  # rows of which it computes what they say


def source(folder: Path, row: str) -> Any:
    """A random model of a family, biases and norms included, saved to `folder`."""
    kind, settings = ROWS[row]
    if not isinstance(kind, str):
        reference = kind(**settings)
        reference.save(folder, shards=3 if row in ("qwen", "chatglm2") else 1)
        return reference
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**{**SHAPE, **settings}))
    for name, value in model.named_parameters():
        if value.dim() == 1:
            is_scale = name.endswith("weight") and not kind.startswith("Gemma")
            value.data.normal_(1.0 if is_scale else 0.0, 0.1)
    save(model.float().eval(), folder)
    return model


def assert_close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """To 1e-5 of the largest element: float32, in another order of sums."""
    assert (found.float().cpu() - expected).abs().max() < 1e-5 * expected.abs().max(), what
