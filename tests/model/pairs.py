"""The same model twice: our decoder, and what transformers makes of it."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from fm9g import runtime
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder

# ours -> theirs, as REFERENCE.md has them: written out here, not taken from fm9g/convert
NAMES = {
    "input_embedding.": "model.embed_tokens.",
    "encoder.output_layernorm.": "model.norm.",
    "encoder.layers.": "model.layers.",
    ".self_att.layernorm_before_attention.": ".input_layernorm.",
    ".self_att.self_attention.project_q.": ".self_attn.q_proj.",
    ".self_att.self_attention.project_k.": ".self_attn.k_proj.",
    ".self_att.self_attention.project_v.": ".self_attn.v_proj.",
    ".self_att.self_attention.attention_out.": ".self_attn.o_proj.",
    ".ffn.layernorm_before_ffn.": ".post_attention_layernorm.",
    ".ffn.ffn.w_in.w_0.": ".mlp.gate_proj.",
    ".ffn.ffn.w_in.w_1.": ".mlp.up_proj.",
    ".ffn.ffn.w_out.": ".mlp.down_proj.",
}
SMALL = {
    "vocab_size": 61,
    "dim_model": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "dim_head": 8,
    "dim_ff": 48,
    "num_layers": 3,
    "max_length": 64,
    "init_std": 0.2,
    "dtype": "float32",
}
LENGTHS = [9, 1, 14, 5]  # of the documents in a strip


def their_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def config(**settings: Any) -> ModelConfig:
    return ModelConfig(**{**SMALL, **settings})


def decoder(settings: ModelConfig, flash: str = "cuda", use_checkpoint: bool = False, seed: int = 0) -> Decoder:
    """Random weights, norms included, that depend on the seed and the shape alone."""
    model = Decoder(settings, flash=flash, use_checkpoint=use_checkpoint)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        weights[name] = (1 + 0.1 * noise if "norm" in name else settings.init_std * noise).to(value.dtype)
    model.load_state_dict(weights)
    return model


def theirs(model: Decoder, kind: str = "Llama", **settings: Any) -> Any:
    """transformers' LlamaForCausalLM (or Granite …) in float32 with the decoder's weights."""
    ours = model.config
    their_config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": ours.vocab_size,
            "hidden_size": ours.dim_model,
            "intermediate_size": ours.dim_ff,
            "num_hidden_layers": ours.num_layers,
            "num_attention_heads": ours.num_heads,
            "num_key_value_heads": ours.num_kv_heads,
            "head_dim": ours.dim_head,
            "max_position_embeddings": ours.max_length,
            "rms_norm_eps": ours.eps,
            "rope_theta": ours.base,
            "hidden_act": ours.activate_fn,
            "tie_word_embeddings": ours.tie_lm_head,
            "attn_implementation": "eager",
            **settings,
        }
    )
    other = getattr(transformers, f"{kind}ForCausalLM")(their_config).float().eval()
    weights = {their_name(name): value.float().cpu() for name, value in model.state_dict().items()}
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= ({"lm_head.weight"} if ours.tie_lm_head else set()), missing
    return other


def tokens_and_targets(vocab_size: int, lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A strip of documents, and for each token the next of its document; some targets are ignored."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab_size, (sum(lengths),), generator=generator)
    targets = torch.cat([torch.cat([document[1:], torch.tensor([-100])]) for document in tokens.split(lengths)])
    targets[3] = -100
    return tokens.to(runtime.device()), targets.to(runtime.device())


def their_logits(model: Any, tokens: Tensor, lengths: list[int] = LENGTHS) -> Tensor:
    """[T, vocab_size]: each document alone."""
    documents = tokens.cpu().split(lengths)
    return torch.cat([model(input_ids=document.unsqueeze(0)).logits.squeeze(0) for document in documents])


def gradients(model: Decoder) -> dict[str, Tensor]:
    """Every parameter's gradient in its shape; BMTrain keeps them flat."""
    return {name: value.grad.view(value._original_shape).float().cpu() for name, value in model.named_parameters()}
