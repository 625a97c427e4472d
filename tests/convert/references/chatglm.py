"""ChatGLM2 and later, as https://arxiv.org/abs/2406.12793 (section 2) describes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.convert.references.parts import Reference, RMSNorm, attended, bare, holding, turn_neighbours, turns


class ChatGLM(Reference):
    """`stretches`: whether rope_ratio divides positions, as in ChatGLM2's code, or multiplies the base."""

    def __init__(self, stretches: bool = False, **changes: Any) -> None:
        settings = {
            **{"architectures": ["ChatGLMModel"], "model_type": "chatglm", "padded_vocab_size": 96, "num_layers": 2},
            **{"hidden_size": 64, "ffn_hidden_size": 80, "num_attention_heads": 4, "kv_channels": 24},
            **{"multi_query_attention": True, "multi_query_group_num": 2, "layernorm_epsilon": 1e-5},
            **{"seq_length": 64, "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True},
            **{"post_layer_norm": True, "original_rope": True, "tie_word_embeddings": False, "vocab_size": 96},
            **changes,
        }
        super().__init__(settings)
        width, eps, inner = settings["hidden_size"], settings["layernorm_epsilon"], settings["ffn_hidden_size"]
        self.dim, self.stretches, everywhere = settings["kv_channels"], stretches, settings["add_bias_linear"]
        self.queries = settings["num_attention_heads"] * self.dim
        self.keys = settings["multi_query_group_num"] * self.dim

        def norm() -> nn.Module:
            return RMSNorm(width, eps) if settings["rmsnorm"] else nn.LayerNorm(width, eps)

        def block() -> Any:
            into = bare(width, self.queries + 2 * self.keys, settings["add_qkv_bias"] or everywhere)
            attention = holding(query_key_value=into, dense=bare(self.queries, width, everywhere))
            up, down = bare(width, 2 * inner, everywhere), bare(inner, width, everywhere)
            norms = {"input_layernorm": norm(), "post_attention_layernorm": norm()}
            return holding(self_attention=attention, mlp=holding(dense_h_to_4h=up, dense_4h_to_h=down), **norms)

        blocks = nn.ModuleList(block() for _ in range(settings["num_layers"]))
        rows = settings["padded_vocab_size"]
        self.transformer = holding(
            embedding=holding(word_embeddings=nn.Embedding(rows, width)),
            encoder=holding(layers=blocks, final_layernorm=norm()),
            output_layer=bare(width, rows),
        )
        self.shuffle()
        rotary = nn.Module()
        rotary.register_buffer("inv_freq", torch.rand(self.dim // 4))
        self.transformer["rotary_pos_emb"] = rotary  # which nothing reads

    def logits(self, tokens: Tensor) -> Tensor:
        ratio = self.settings.get("rope_ratio", 1)
        base, stretch = (10000.0, ratio) if self.stretches else (10000.0 * ratio, 1)
        by = turns(len(tokens), self.dim // 2, base, stretch)
        x = self.transformer["embedding"]["word_embeddings"](tokens)
        for block in self.transformer["encoder"]["layers"]:
            attention, mlp = block["self_attention"], block["mlp"]
            joined = attention["query_key_value"](block["input_layernorm"](x))
            parts = joined.split([self.queries, self.keys, self.keys], -1)
            q, k, v = (part.unflatten(-1, (-1, self.dim)) for part in parts)
            x = x + attention["dense"](attended(turn_neighbours(q, by), turn_neighbours(k, by), v))
            gate, up = mlp["dense_h_to_4h"](block["post_attention_layernorm"](x)).chunk(2, -1)
            x = x + mlp["dense_4h_to_h"](F.silu(gate) * up)
        logits: Tensor = self.transformer["output_layer"](self.transformer["encoder"]["final_layernorm"](x))
        return logits
