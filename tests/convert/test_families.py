"""Each architecture: converted, our decoder computes what transformers' own model does, and every bit comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional as F

from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.hf_config import family_of, huggingface_config, model_config_from_huggingface
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from fm9g.files import write_json
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from tests.convert.helpers import assert_same_bits, gradients_of_theirs, in_their_names, read_tensors, save
from tests.model.pairs import gradients, tokens_and_targets

pytestmark = pytest.mark.usefixtures("single_rank")

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
# transformers' name of the family, and what its config says beside SHAPE
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
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
    "gemma2, no caps": ("Gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": None}),
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
if hasattr(transformers, "Glm4Config"):  # from 4.51 on
    ROWS["glm4"] = ("Glm4", {"head_dim": 16, "num_key_value_heads": 1})
if hasattr(transformers, "Qwen3MoeConfig"):  # from 4.51 on
    EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    ROWS["qwen3-moe"] = ("Qwen3Moe", {**EXPERTS, "head_dim": 24, "norm_topk_prob": True})
    ROWS["qwen3-moe, weights as they are"] = ("Qwen3Moe", {**EXPERTS, "tie_word_embeddings": True})
LENGTH = 40


def source(folder: Path, row: str) -> Any:
    """A random model of a family, biases and norms included, saved to `folder`."""
    kind, settings = ROWS[row]
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


@pytest.mark.parametrize("row", ROWS)
def test_logits_and_gradients_are_transformers(row: str, tmp_path: Path) -> None:
    theirs = source(tmp_path / "source", row)
    config = huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    ours = Decoder(config)
    ours.load_state_dict(torch.load(tmp_path / "7b.pt", weights_only=True))
    tokens, targets = tokens_and_targets(config.vocab_size, [LENGTH])
    logits = theirs(input_ids=tokens.cpu()[None]).logits[0]
    F.cross_entropy(logits, targets.cpu(), reduction="sum").backward()
    assert_close(ours(tokens, ours.context([LENGTH])).detach(), logits.detach(), "logits")
    ours.loss(tokens, targets, ours.context([LENGTH]))[0].backward()
    found, reference = in_their_names(gradients(ours), config, theirs), gradients_of_theirs(theirs)
    assert found.keys() == reference.keys()
    for name, gradient in reference.items():
        assert_close(found[name], gradient, name)


@pytest.mark.parametrize("row", ROWS)
def test_every_bit_comes_back(row: str, tmp_path: Path) -> None:
    source(tmp_path / "source", row)
    config = huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    with_reference(tmp_path / "source", tmp_path / "7b.pt", tmp_path / "back")
    assert_same_bits(read_tensors(tmp_path / "back"), read_tensors(tmp_path / "source"))
    assert huggingface_to_bmtrain(tmp_path / "back", tmp_path / "again.pt") == config
    kind = type(transformers.AutoConfig.from_pretrained(tmp_path / "back")).__name__
    assert kind == f"{ROWS[row][0]}Config"


@pytest.mark.parametrize("row", ROWS)
def test_from_scratch_a_config_is_written_as_a_family_that_reads_it(row: str, tmp_path: Path) -> None:
    source(tmp_path / "source", row)
    config = huggingface_to_bmtrain(tmp_path / "source", tmp_path / "7b.pt")
    written = huggingface_config(config, "F32", {}, "7b.json")
    back = model_config_from_huggingface(written, "config.json")
    assert {**vars(back), "dtype": "float32"} == vars(config)
    (tmp_path / "written").mkdir()
    write_json(tmp_path / "written" / "config.json", written)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "written")
    assert getattr(theirs, "num_experts", getattr(theirs, "num_local_experts", 0)) == config.num_experts


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("Qwen2ForCausalLM", {"use_sliding_window": "yes"}, "use_sliding_window must be true or false, not 'yes'"),
        ("Qwen2ForCausalLM", {"layer_types": "all"}, "layer_types must be a list of 2 kinds, one a layer, not 'all'"),
        ("Qwen3ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types must be a list of 2 kinds"),
        ("Qwen3ForCausalLM", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types has 'chunked_att"),
        ("Qwen3ForCausalLM", {"attention_bias": True}, "attention_bias=True is not supported"),
        ("MistralForCausalLM", {"sliding_window": -1}, "sliding_window must be a positive whole number or null"),
        ("LlamaForCausalLM", {"attention_bias": "all"}, "attention_bias must be true or false, not 'all'"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ("Phi3ForCausalLM", {"resid_pdrop": 0.1}, "resid_pdrop=0.1 is not supported"),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 2}, "partial_rotary_factor must be a share above 0 and up to 1"),
        ("Phi3ForCausalLM", {"rope_scaling": {"type": "longrope", "factor": 1.0}}, "RoPE scaling 'longrope' is not"),
        ("GlmForCausalLM", {"attention_bias": 1.5}, "attention_bias must be true or false, not 1.5"),
        ("GemmaForCausalLM", {"hidden_activation": "silu"}, "hidden_activation 'silu' is not Gemma's"),
        ("GemmaForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not"),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar must be a positive number"),
        ("BloomForCausalLM", {"n_layer": 3}, "n_layer is 3, but num_hidden_layers 2"),
        (
            "BloomForCausalLM",
            {"apply_residual_connection_post_layernorm": True},
            "apply_residual_connection_post_layernorm=True is not supported",
        ),
        ("BloomForCausalLM", {"seq_length": 10**6}, "seq_length must be at most 65536 with position 'alibi'"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\] is not supported"),
        ("Qwen2MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step=2 is not supported"),
        ("Qwen2MoeForCausalLM", {"qkv_bias": False}, "qkv_bias=False is not supported"),
        ("Qwen2MoeForCausalLM", {"shared_expert_intermediate_size": 0}, "shared_expert_.* a positive int, not 0"),
        ("Qwen3MoeForCausalLM", {"num_experts": 4, "num_local_experts": 8}, "num_experts=4 and num_local_.*=8 differ"),
        ("Qwen3MoeForCausalLM", {"num_experts": 4}, r"num_experts_per_tok must be from 1 to num_experts \(4\), not 8"),
        ("MixtralForCausalLM", {"num_local_experts": 0}, "num_local_experts must be a positive int, not 0"),
        ("MixtralForCausalLM", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 is not supported"),
        ("MixtralForCausalLM", {"router_aux_loss_coef": "a"}, "router_aux_loss_coef must be float, not 'a'"),
    ],
)
def test_what_a_family_cannot_say_here_is_refused_by_name(
    architecture: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        model_config_from_huggingface({**SHAPE, "architectures": [architecture], **changes}, "config.json")


def test_mixtral_without_a_base_of_rope_has_its_own() -> None:
    for told in ({}, {"rope_parameters": {"rope_type": "default"}}, {"rope_theta": None}):
        values = {**SHAPE, "architectures": ["MixtralForCausalLM"], **told}
        assert model_config_from_huggingface(values, "config.json").base == 1e6
    values = {**SHAPE, "architectures": ["MixtralForCausalLM"], "rope_parameters": {"rope_theta": 5e5}}
    assert model_config_from_huggingface(values, "config.json").base == 5e5


def test_experts_whose_weights_do_not_sum_to_one_are_no_mixtrals() -> None:
    shape: dict[str, Any] = {"vocab_size": 8, "dim_model": 8, "num_heads": 2, "num_layers": 1, "dim_ff": 8}
    with pytest.raises(UserError, match=r"7b\.json: .*norm_expert_weights must be true"):
        huggingface_config(ModelConfig(**shape, num_experts=4, experts_per_token=2), "F32", {}, "7b.json")


def test_an_unknown_architecture_lists_those_there_are_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"one of BloomForCausalLM, .* \(did you mean 'LlamaForCausalLM'\?\)"):
        family_of({"architectures": ["LLamaForCausalLM"]}, "config.json")


def test_what_no_family_has_together_is_named() -> None:
    shape: dict[str, Any] = {"vocab_size": 8, "dim_model": 8, "num_heads": 2, "num_layers": 1, "dim_ff": 8}
    with pytest.raises(UserError, match=r"7b\.json: no architecture of Hugging Face has qkv_bias and scale together"):
        huggingface_config(ModelConfig(**shape, qkv_bias=True, scale=True), "F32", {}, "7b.json")
