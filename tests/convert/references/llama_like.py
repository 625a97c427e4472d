"""Models that are LLaMAs (https://arxiv.org/abs/2302.13971) under names of their own, some with another detail each:
Baichuan, Baichuan 2 (https://arxiv.org/abs/2309.10305, section 2), InternLM, the first Yi, MiniCPM
(https://arxiv.org/abs/2404.06395, section 3) and FM9G."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from tests.convert.references.parts import (
    Reference,
    RMSNorm,
    attended,
    bare,
    holding,
    slopes,
    turn_halves,
    turns,
)

COMMON: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6},
}


class LlamaLike(Reference):
    """What differs are class attributes, and what subclasses do otherwise."""

    defaults: ClassVar[dict[str, Any]] = {}
    norms = ("input_layernorm", "post_attention_layernorm")
    base = 10000.0
    alibi = norm_head = False
    tied = False  # unless the config says otherwise; where it is, nothing is said

    def __init__(self, **changes: Any) -> None:
        untied: dict[str, Any] = {} if self.tied else {"tie_word_embeddings": False}
        settings = {**COMMON, **untied, **self.defaults, **changes}
        super().__init__(settings)
        width, inner, rows = (settings[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
        self.of_embeddings, self.of_branches, self.of_head = self.factors()
        self.heads = settings["num_attention_heads"]
        self.groups, self.dim = settings.get("num_key_value_heads", self.heads), width // self.heads

        def norm() -> RMSNorm:
            return RMSNorm(width, settings["rms_norm_eps"])

        def block() -> Any:
            mlp = holding(gate_proj=bare(width, inner), up_proj=bare(width, inner), down_proj=bare(inner, width))
            before = {name: norm() for name in self.norms}
            return holding(self_attn=self.attention(width), mlp=mlp, **before)

        blocks = nn.ModuleList(block() for _ in range(settings["num_hidden_layers"]))
        self.model = holding(embed_tokens=nn.Embedding(rows, width), layers=blocks, norm=norm())
        if not settings.get("tie_word_embeddings", self.tied):
            self.lm_head = bare(width, rows)
        self.shuffle()

    def factors(self) -> tuple[float, float, float]:
        """Of embeddings and of residual branches, and what hidden states are divided by before the head."""
        return 1.0, 1.0, 1.0

    def attention(self, width: int) -> Any:
        bias, keys = self.settings.get("bias", False), self.groups * self.dim
        outs = {"q_proj": width, "k_proj": keys, "v_proj": keys, "o_proj": width}
        return holding(**{name: bare(width, out, bias) for name, out in outs.items()})

    def projected(self, attention: Any, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(attention[f"{name}_proj"](x) for name in "qkv")

    def logits(self, tokens: Tensor) -> Tensor:
        by, x = turns(len(tokens), self.dim, self.base), self.of_embeddings * self.model["embed_tokens"](tokens)
        for block in self.model["layers"]:
            attention, mlp, (first, second) = block["self_attn"], block["mlp"], self.norms
            q, k, v = (y.unflatten(-1, (-1, self.dim)) for y in self.projected(attention, block[first](x)))
            if self.alibi:
                seen = attended(q, k, v, slopes(self.heads))
            else:
                seen = attended(turn_halves(q, by), turn_halves(k, by), v)
            x = x + self.of_branches * attention["o_proj"](seen)
            y = block[second](x)
            x = x + self.of_branches * mlp["down_proj"](F.silu(mlp["gate_proj"](y)) * mlp["up_proj"](y))
        head = self.lm_head.weight if hasattr(self, "lm_head") else self.model["embed_tokens"].weight
        if self.norm_head:
            head = head / head.square().sum(1, keepdim=True).sqrt()
        return self.model["norm"](x) / self.of_head @ head.T


class Baichuan(LlamaLike):
    """Of 7B, with one projection to queries, keys and values."""

    defaults: ClassVar[dict[str, Any]] = {
        "architectures": ["BaiChuanForCausalLM"],
        "model_type": "baichuan",
        "max_position_embeddings": 64,
    }

    def attention(self, width: int) -> Any:
        return holding(W_pack=bare(width, 3 * width), o_proj=bare(width, width))

    def projected(self, attention: Any, x: Tensor) -> tuple[Tensor, ...]:
        return attention["W_pack"](x).chunk(3, -1)


class Baichuan13B(Baichuan):
    alibi = True
    defaults: ClassVar[dict[str, Any]] = {
        **{"architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "model_max_length": 64},
        "norm_head": False,
    }


class Baichuan2Of7B(Baichuan):
    norm_head = True
    defaults: ClassVar[dict[str, Any]] = {
        **Baichuan.defaults,
        "architectures": ["BaichuanForCausalLM"],
        "z_loss_weight": 0,
    }


class Baichuan2Of13B(Baichuan13B):
    norm_head = True
    defaults: ClassVar[dict[str, Any]] = {**Baichuan13B.defaults, "norm_head": None, "z_loss_weight": 0}


class InternLM(LlamaLike):
    defaults: ClassVar[dict[str, Any]] = {
        **{"architectures": ["InternLMForCausalLM"], "model_type": "internlm", "max_position_embeddings": 64},
        **{"bias": True, "rotary": {"base": 10000, "type": "dynamic"}},
    }


class Yi(LlamaLike):
    norms, base = ("ln1", "ln2"), 5e6
    defaults: ClassVar[dict[str, Any]] = {
        **{"architectures": ["YiForCausalLM"], "model_type": "Yi", "max_position_embeddings": 64},
        **{"num_key_value_heads": 2, "rope_theta": 5e6},
    }


class FM9G(LlamaLike):
    """Any of whose configs may have muP's keys: all three of them, or none."""

    tied = True
    defaults: ClassVar[dict[str, Any]] = {
        **{"architectures": ["FM9GForCausalLM"], "model_type": "fm9g", "max_position_embeddings": 64},
        "num_key_value_heads": 2,
    }

    def factors(self) -> tuple[float, float, float]:
        said = self.settings
        if "scale_emb" not in said:
            return super().factors()
        branches = said["scale_depth"] / math.sqrt(said["num_hidden_layers"])
        return said["scale_emb"], branches, said["hidden_size"] / said["dim_model_base"]


class MiniCPM(FM9G):
    defaults: ClassVar[dict[str, Any]] = {
        **{"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", "max_position_embeddings": 64},
        **{"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16},
    }
