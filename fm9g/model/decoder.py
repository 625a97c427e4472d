"""The language model: embedding, transformer blocks in BMTrain's ZeRO-3 storage, norm, head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g import runtime
from fm9g.model.attention import choose_kernel
from fm9g.model.block import TransformerBlock
from fm9g.model.config import ModelConfig
from fm9g.model.cross_entropy import linear_cross_entropy
from fm9g.model.embedding import Embedding
from fm9g.model.linear import Linear
from fm9g.model.norm import RMSNorm
from fm9g.model.packed import Packed
from fm9g.model.rotary import RotaryTable
from fm9g.runtime import bmt

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


class Encoder(bmt.DistributedModule):
    """The transformer blocks and the norm after them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, flash: str, use_checkpoint: bool) -> None:
        super().__init__()
        self.kernel_name, kernel = choose_kernel(flash, dtype, runtime.backend.on_cuda)
        self.layers = bmt.TransformerBlockList(
            [
                bmt.Block(TransformerBlock(config, dtype, kernel), use_checkpoint=use_checkpoint)
                for _ in range(config.num_layers)
            ]
        )
        self.output_layernorm = RMSNorm(config.dim_model, config.eps, dtype)

    def forward(self, x_TD: Tensor, cos: Tensor, sin: Tensor, packed: Packed) -> Tensor:
        return self.output_layernorm(self.layers(x_TD, cos, sin, packed))


class Decoder(bmt.DistributedModule):
    """A causal language model over packed documents.

    `flash` is the attention kernel (cuda: the best there is; none: the plain reference);
    `use_checkpoint` recomputes each block's activations in backward.
    """

    def __init__(self, config: ModelConfig, flash: str = "cuda", use_checkpoint: bool = False) -> None:
        super().__init__()
        self.config = config
        dtype = TORCH_DTYPES[config.dtype]
        self.input_embedding = Embedding(config.vocab_size, config.dim_model, config.init_std, dtype)
        self.encoder = Encoder(config, dtype, flash, use_checkpoint)
        if not config.tie_lm_head:
            self.lm_head = Linear(config.dim_model, config.vocab_size, config.init_std, dtype)
        self._rotary = RotaryTable(config)

    def _head_weight(self) -> Tensor:
        return (self.input_embedding if self.config.tie_lm_head else self.lm_head).weight

    def hidden(self, tokens_T: Tensor, packed: Packed) -> Tensor:
        """[T] token ids -> [T, dim_model], scaled for the head."""
        x_TD = self.input_embedding(tokens_T)
        if self.config.embedding_scale != 1:
            x_TD = x_TD * self.config.embedding_scale
        cos, sin = self._rotary(packed.position_ids, x_TD.dtype)
        x_TD = self.encoder(x_TD, cos, sin, packed)
        return x_TD / self.config.width_ratio if self.config.width_ratio != 1 else x_TD

    def forward(self, tokens_T: Tensor, packed: Packed) -> Tensor:
        """[T] token ids -> [T, vocab_size] logits, all of them in memory: for inference and tests."""
        return F.linear(self.hidden(tokens_T, packed), self._head_weight())

    def loss(self, tokens_T: Tensor, targets_T: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """The summed loss over valid targets (not -100), and the loss [T] of each token without gradient."""
        return linear_cross_entropy(self.hidden(tokens_T, packed), self._head_weight(), targets_T)
