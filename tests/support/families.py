"""A small config.json of each architecture, with what its models have that a LLaMA has not."""

from __future__ import annotations

from typing import Any

from fm9g.convert.hf_config import model_config_from_huggingface
from fm9g.model.config import ModelConfig

USUAL: dict[str, Any] = {
    **{"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1, "max_position_embeddings": 128},
}
CHATGLM = {
    **{"padded_vocab_size": 61, "num_layers": 2, "kv_channels": 8, "ffn_hidden_size": 48, "seq_length": 128},
    **{"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True},
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True},
    "MiniCPMForCausalLM": {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16},
    "FM9GForCausalLM": {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16},
    "Qwen2ForCausalLM": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "Qwen3ForCausalLM": {"head_dim": 16},
    "MistralForCausalLM": {"sliding_window": 6},
    "Phi3ForCausalLM": {"partial_rotary_factor": 0.5},
    "GlmForCausalLM": {"head_dim": 16},
    "Glm4ForCausalLM": {"head_dim": 16},
    "GemmaForCausalLM": {"head_dim": 16},
    "Gemma2ForCausalLM": {"head_dim": 16, "sliding_window": 6},
    "BloomForCausalLM": {},
    "QWenLMHeadModel": {"intermediate_size": 96, "seq_length": 128},
    "BaiChuanForCausalLM": {},
    "BaichuanForCausalLM": {"max_position_embeddings": None, "model_max_length": 128, "norm_head": True},
    "ChatGLMModel": CHATGLM,
    "ChatGLMForConditionalGeneration": CHATGLM,
    "InternLMForCausalLM": {},
    "InternLM2ForCausalLM": {},
    "YiForCausalLM": {},
    "MixtralForCausalLM": EXPERTS,
    "Qwen2MoeForCausalLM": {**EXPERTS, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    "Qwen3MoeForCausalLM": {**EXPERTS, "moe_intermediate_size": 24, "head_dim": 16},
}


def config_of(architecture: str) -> ModelConfig:
    """Our model config of it, in float32."""
    values = {**USUAL, "architectures": [architecture], **FAMILIES[architecture], "dtype": "float32"}
    return ModelConfig(**{**vars(model_config_from_huggingface(values, "config.json")), "dtype": "float32"})
