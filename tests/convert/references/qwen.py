"""Qwen, as https://arxiv.org/abs/2309.16609 (section 2.3) describes it, within the length that it was trained for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tests.convert.references.parts import Reference, RMSNorm, attended, bare, holding, turn_halves, turns


class Qwen(Reference):
    def __init__(self, **changes: Any) -> None:
        settings = {
            **{"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "vocab_size": 96, "hidden_size": 64},
            **{"intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 16},
            **{"layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 64},
            **{"max_position_embeddings": 256, "use_dynamic_ntk": True, "use_logn_attn": True, "no_bias": True},
            **{"attn_dropout_prob": 0.1, "scale_attn_weights": True, "tie_word_embeddings": False},
            **changes,
        }
        super().__init__(settings)
        width, eps, bias = settings["hidden_size"], settings["layer_norm_epsilon"], not settings["no_bias"]
        inner = settings["intermediate_size"] // 2

        def block() -> Any:
            return holding(
                ln_1=RMSNorm(width, eps),
                attn=holding(c_attn=bare(width, 3 * width, True), c_proj=bare(width, width, bias)),
                ln_2=RMSNorm(width, eps),
                mlp=holding(w1=bare(width, inner, bias), w2=bare(width, inner, bias), c_proj=bare(inner, width, bias)),
            )

        blocks = nn.ModuleList(block() for _ in range(settings["num_hidden_layers"]))
        table = nn.Embedding(settings["vocab_size"], width)
        self.transformer = holding(wte=table, h=blocks, ln_f=RMSNorm(width, eps))
        self.lm_head = bare(width, settings["vocab_size"])
        self.shuffle()

    def logits(self, tokens: Tensor) -> Tensor:
        dim = self.settings["kv_channels"]
        by = turns(len(tokens), int(dim * self.settings["rotary_pct"]), self.settings["rotary_emb_base"])
        x, blocks = self.transformer["wte"](tokens), self.transformer["h"]
        for block in blocks:
            attention, mlp = block["attn"], block["mlp"]
            q, k, v = (part.unflatten(-1, (-1, dim)) for part in attention["c_attn"](block["ln_1"](x)).chunk(3, -1))
            x = x + attention["c_proj"](attended(turn_halves(q, by), turn_halves(k, by), v))
            y = block["ln_2"](x)
            x = x + mlp["c_proj"](mlp["w1"](y) * F.silu(mlp["w2"](y)))
        logits: Tensor = self.lm_head(self.transformer["ln_f"](x))
        return logits
