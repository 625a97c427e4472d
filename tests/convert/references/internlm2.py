"""InternLM2, as https://arxiv.org/abs/2403.17297 (section 2.2 and figure 1) describes it: a LLaMA whose projections to
queries, keys and values are in one, group by group."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tests.convert.references.parts import Reference, RMSNorm, attended, bare, holding, turn_halves, turns


class InternLM2(Reference):
    def __init__(self, **changes: Any) -> None:
        settings = {
            **{"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "vocab_size": 96},
            **{"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e6},
            **{"rope_scaling": {"type": "dynamic", "factor": 2.0}, "bias": False, "tie_word_embeddings": False},
            **changes,
        }
        super().__init__(settings)
        width, eps, bias = settings["hidden_size"], settings["rms_norm_eps"], settings["bias"]
        inner, self.groups = settings["intermediate_size"], settings["num_key_value_heads"]
        self.dim = width // settings["num_attention_heads"]

        def block() -> Any:
            return holding(
                attention_norm=RMSNorm(width, eps),
                attention=holding(
                    wqkv=bare(width, width + 2 * self.groups * self.dim, bias), wo=bare(width, width, bias)
                ),
                ffn_norm=RMSNorm(width, eps),
                feed_forward=holding(w1=bare(width, inner), w2=bare(inner, width), w3=bare(width, inner)),
            )

        blocks = nn.ModuleList(block() for _ in range(settings["num_hidden_layers"]))
        table = nn.Embedding(settings["vocab_size"], width)
        self.model = holding(tok_embeddings=table, layers=blocks, norm=RMSNorm(width, eps))
        self.output = bare(width, settings["vocab_size"])
        self.shuffle()

    def logits(self, tokens: Tensor) -> Tensor:
        by, x = turns(len(tokens), self.dim, self.settings["rope_theta"]), self.model["tok_embeddings"](tokens)
        for block in self.model["layers"]:
            attention, mlp = block["attention"], block["feed_forward"]
            grouped = attention["wqkv"](block["attention_norm"](x)).unflatten(-1, (self.groups, -1, self.dim))
            q, k, v = grouped[:, :, :-2].flatten(1, 2), grouped[:, :, -2], grouped[:, :, -1]
            x = x + attention["wo"](attended(turn_halves(q, by), turn_halves(k, by), v))
            y = block["ffn_norm"](x)
            x = x + mlp["w2"](F.silu(mlp["w1"](y)) * mlp["w3"](y))
        logits: Tensor = self.output(self.model["norm"](x))
        return logits
