"""What a config.json says in the words of its family: read, told where it must be, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from fm9g.convert.hf_config import model_config_from_huggingface
from fm9g.errors import UserError
from fm9g.model.parameters import num_parameters
from tests.convert.family_models import SHAPE

GROUPED = {"multi_query_attention": True}


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("Qwen2ForCausalLM", {"use_sliding_window": "yes"}, "use_sliding_window must be true or false, not 'yes'"),
        ("Qwen2ForCausalLM", {"layer_types": "all"}, "layer_types must be a list of 2 kinds, one a layer, not 'all'"),
        ("Qwen3ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types must be a list of 2 kinds"),
        ("Qwen3ForCausalLM", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types has 'chunked_att"),
        *(
            (name, {"layer_types": ["full_attention", "sliding_attention"]}, "but use_sliding_window is not true")
            for name in ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen2MoeForCausalLM")
        ),
        *(
            (name, {"is_causal": value}, "is_causal=.* is not supported")
            for name in ("LlamaForCausalLM", "BloomForCausalLM", "GlmForCausalLM")
            for value in (False, None)
        ),
        ("MistralForCausalLM", {"per_layer_config": {"0": {}}}, "per_layer_config=.* is not supported"),
        ("Qwen3ForCausalLM", {"attention_bias": True}, "attention_bias=True is not supported"),
        ("MistralForCausalLM", {"sliding_window": -1}, "sliding_window must be a positive whole number or null"),
        ("LlamaForCausalLM", {"attention_bias": "all"}, "attention_bias must be true or false, not 'all'"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ("Phi3ForCausalLM", {"resid_pdrop": 0.1}, "resid_pdrop=0.1 is not supported"),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 2}, "partial_rotary_factor must be a share above 0 and up to 1"),
        (
            "Phi3ForCausalLM",
            {"rope_scaling": {"type": "su", "factor": 1.0}},
            "scaling 'longrope' has no short_f",
        ),
        ("Phi3ForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is unknown to Phi3ForC"),
        (
            "InternLM2ForCausalLM",
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            r"'yarn' is unknown to InternLM2ForCausalLM's code \(only linear, dynamic\)",
        ),
        ("GlmForCausalLM", {"partial_rotary_factor": None}, "partial_rotary_factor must be a share .* not null"),
        (
            "Glm4ForCausalLM",
            {"rope_parameters": {"partial_rotary_factor": None}},
            "partial_rotary_factor must be a share .* not null",
        ),
        ("GlmForCausalLM", {"attention_bias": 1.5}, "attention_bias must be true or false, not 1.5"),
        ("GemmaForCausalLM", {"hidden_activation": "silu"}, "hidden_activation 'silu' is not Gemma's"),
        ("GemmaForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not"),
        ("GemmaForCausalLM", {"hidden_size": 10**400}, "hidden_size must be below 2.63, not 1000"),
        ("GemmaForCausalLM", {"hidden_size": 2**40, "dtype": "float16"}, "hidden_size must be below 2.31"),
        ("Gemma2ForCausalLM", {"hidden_activation": "gelu"}, "hidden_activation 'gelu' is not Gemma's"),
        ("Gemma2ForCausalLM", {"sliding_window": None}, "sliding_window must be a positive whole number for a Gemma 2"),
        (
            "Gemma2ForCausalLM",
            {"final_logit_softcapping": 0.0},
            "final_logit_softcapping must be a positive number, or",
        ),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": True}, "query_pre_attn_scalar must be a positive number"),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar must be a positive number"),
        ("BloomForCausalLM", {"slow_but_exact": True, "pretraining_tp": 2}, "slow_but_exact with pretraining_tp 2 is"),
        ("BloomForCausalLM", {"n_layer": 3}, "n_layer is 3, but num_hidden_layers 2"),
        (
            "BloomForCausalLM",
            {"apply_residual_connection_post_layernorm": True},
            "apply_residual_connection_post_layernorm=True is not supported",
        ),
        ("BloomForCausalLM", {"seq_length": 10**6}, "seq_length must be at most 65536 with position 'alibi'"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\] is not supported"),
        ("Qwen2MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step=2 is not supported"),
        *(
            (name, {"sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"], **more}, "all layers")
            for name, more in (
                ("MistralForCausalLM", {}),
                ("MixtralForCausalLM", {}),
                ("Phi3ForCausalLM", {}),
                ("Qwen3MoeForCausalLM", {"use_sliding_window": True}),
            )
        ),
        ("Qwen2MoeForCausalLM", {"qkv_bias": False}, "qkv_bias=False is not supported"),
        ("Qwen2MoeForCausalLM", {"shared_expert_intermediate_size": 0}, "shared_expert_.* a positive int, not 0"),
        ("Qwen3MoeForCausalLM", {"num_experts": 4, "num_local_experts": 8}, "num_experts=4 and num_local_.*=8 differ"),
        ("Qwen3MoeForCausalLM", {"num_experts": 4}, r"num_experts_per_tok must be from 1 to num_experts \(4\), not 8"),
        ("MixtralForCausalLM", {"num_local_experts": 0}, "num_local_experts must be a positive int, not 0"),
        ("MixtralForCausalLM", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 is not supported"),
        ("MixtralForCausalLM", {"router_aux_loss_coef": "a"}, "router_aux_loss_coef must be float, not 'a'"),
        ("QWenLMHeadModel", {"no_bias": "yes"}, "no_bias must be true or false, not 'yes'"),
        (
            "QWenLMHeadModel",
            {"kv_channels": 128},
            r"kv_channels \(128\) \* num_attention_heads \(4\) is not hidden_size",
        ),
        ("QWenLMHeadModel", {"rotary_emb_base": 0}, "rotary_emb_base must be a number from 1 on"),
        ("QWenLMHeadModel", {"rope_scaling": {"type": "linear"}}, "rope_scaling=.* is not supported"),
        ("BaiChuanForCausalLM", {"vocab_size": 125696}, "Baichuan 2's architecture is BaichuanForCausalLM, not BaiCh"),
        ("BaiChuanForCausalLM", {"rope_theta": 5e6}, "rope_theta=5000000.0 is not supported"),
        ("BaichuanForCausalLM", {}, 'vocab_size 96, z_loss_weight .* do not tell whether .* add "norm_head": true'),
        ("BaichuanForCausalLM", {"vocab_size": 64000, "z_loss_weight": 0}, "vocab_size 64000, .* disagree on whether"),
        (
            "BaichuanForCausalLM",
            {"vocab_size": 64000, "auto_map": {"AutoModel": "me/Baichuan2-13B-Chat--modeling_baichuan.BaichuanForC"}},
            "the names in _name_or_path and auto_map disagree on whether",
        ),
        ("BaichuanForCausalLM", {"norm_head": 1.5}, "norm_head must be true or false, not 1.5"),
        (
            "BaichuanForCausalLM",
            {"vocab_size": 64000, "hidden_size": 5120, "num_attention_heads": 40},
            "hidden_size 5120 is a 13B model's, which gives its length as model_max_length alone",
        ),
        (
            "BaichuanForCausalLM",
            {"vocab_size": 125696, "hidden_size": 4096, "max_position_embeddings": None},
            "hidden_size 4096 is a 7B model's, which gives its length as max_position_embeddings alone",
        ),
        ("ChatGLMModel", {"position_encoding_2d": True}, "position_encoding_2d is of the first ChatGLM-6B"),
        ("ChatGLMModel", {"inner_hidden_size": 16384}, "inner_hidden_size is of the first ChatGLM-6B"),
        ("ChatGLMModel", {}, "multi_query_attention must be true, not None"),
        ("ChatGLMModel", {**GROUPED, "rope_ratio": 4}, "rope_ratio divides positions in ChatGLM2's code, and raises"),
        ("ChatGLMModel", {**GROUPED, "rope_ratio": -1}, "rope_ratio must be a positive number, not -1"),
        ("ChatGLMModel", {**GROUPED, "original_rope": False}, "original_rope=False is not supported"),
        ("ChatGLMModel", {**GROUPED, "pre_seq_len": 128}, "pre_seq_len=128 is not supported"),
        ("ChatGLMModel", {**GROUPED, "quantization_bit": 4}, "quantization_bit=4 is not supported"),
        ("ChatGLMModel", {**GROUPED, "padded_vocab_size": 0}, "padded_vocab_size must be positive, not 0"),
        ("ChatGLMForConditionalGeneration", {**GROUPED, "rmsnorm": 2}, "rmsnorm must be true or false, not 2"),
        ("InternLMForCausalLM", {"rotary": {"type": "linear"}}, "rotary must be an object whose type is 'origin' or"),
        ("InternLM2ForCausalLM", {"bias": "all"}, "bias must be true or false, not 'all'"),
        ("InternLM2ForCausalLM", {"scale_emb": 12}, "scale_emb means nothing to a InternLM2ForCausalLM"),
        ("YiForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling=.* is not supported"),
    ],
)
def test_what_a_family_cannot_say_here_is_refused_by_name(
    architecture: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        model_config_from_huggingface({**SHAPE, "architectures": [architecture], **changes}, "config.json")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vocab_size": 64000, "max_position_embeddings": None, "model_max_length": 4096}, ("alibi", False)),
        ({"vocab_size": 125696, "max_position_embeddings": None, "model_max_length": 4096}, ("alibi", True)),
        ({"vocab_size": 125696, "max_position_embeddings": 4096, "model_max_length": 4096}, ("rotary", True)),
        ({"vocab_size": 125700, "z_loss_weight": 0}, ("rotary", True)),
        ({"vocab_size": 125699, "_name_or_path": "/models/Baichuan2-7B-Base"}, ("rotary", True)),
        ({"vocab_size": 64010, "norm_head": False}, ("rotary", False)),
    ],
)
def test_which_baichuan_a_folder_holds_its_config_tells(changes: dict[str, Any], expected: tuple[str, bool]) -> None:
    values = {**SHAPE, "architectures": ["BaichuanForCausalLM"], **changes}
    config = model_config_from_huggingface(values, "config.json")
    assert (config.position, config.head_norm) == expected
    assert config.max_length == (values["max_position_embeddings"] or 4096)


CHATGLM2 = {
    **{"architectures": ["ChatGLMModel"], "hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 28},
    **{"num_attention_heads": 32, "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2},
    **{"padded_vocab_size": 65024, "add_qkv_bias": True, "seq_length": 32768, "hidden_dropout": 0.0},
}
BAICHUAN_7B = {
    **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"architectures": ["BaiChuanForCausalLM"], "vocab_size": 64000, "max_position_embeddings": 4096},
}
BAICHUAN_13B = {
    **{"hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 40},
    **{"architectures": ["BaichuanForCausalLM"], "vocab_size": 64000, "model_max_length": 4096},
}
QWEN_72B = {
    **{"architectures": ["QWenLMHeadModel"], "hidden_size": 8192, "intermediate_size": 49152, "kv_channels": 128},
    **{"num_hidden_layers": 80, "num_attention_heads": 64, "no_bias": True, "vocab_size": 152064},
    **{"rotary_emb_base": 1000000, "rope_theta": 1000000, "rotary_pct": 1.0, "attn_dropout_prob": 0.1},
}


@pytest.mark.parametrize(
    ("values", "published"),
    [
        (CHATGLM2, 6_243_584_000),
        (BAICHUAN_7B, 7_000_559_616),
        (BAICHUAN_13B, 13_264_901_120),
        (QWEN_72B, 72_287_920_128),
    ],
)
def test_published_models_have_as_many_parameters_as_is_said_of_them(values: dict[str, Any], published: int) -> None:
    """In their README, or as the bytes of their index, of ChatGLM2 without RoPE's frequencies."""
    assert num_parameters(model_config_from_huggingface(values, "config.json")) == published


def test_of_glm_4_rope_ratio_is_the_bases_whatever_its_folder_is_called() -> None:
    values = {**SHAPE, **GROUPED, "architectures": ["ChatGLMModel"], "rope_ratio": 500, "padded_vocab_size": 151552}
    config = model_config_from_huggingface(values, "config.json")
    assert (config.base, config.rope_scaling_type, config.rotated) == (5e6, "", 64)


@pytest.mark.parametrize("slow", [{"slow_but_exact": True}, {"pretraining_tp": 4}], ids=["slow", "tp"])
def test_what_alone_changes_nothing_in_a_bloom_is_read(slow: dict[str, Any]) -> None:
    values = {**SHAPE, "architectures": ["BloomForCausalLM"]}
    assert model_config_from_huggingface({**values, **slow}, "x") == model_config_from_huggingface(values, "x")


def test_a_usual_key_that_the_familys_code_does_not_read_says_nothing() -> None:
    values = {**SHAPE, "architectures": ["BloomForCausalLM"]}
    config = model_config_from_huggingface({**values, "rms_norm_eps": 0.3, "max_position_embeddings": 9}, "x")
    assert config == model_config_from_huggingface(values, "x")
