"""The language model: embedding, transformer blocks in BMTrain's ZeRO-3 storage, norm, head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g import runtime
from fm9g.model.alibi import PlaceTable
from fm9g.model.block import RoutedBlock, TransformerBlock
from fm9g.model.cache import Cache
from fm9g.model.config import ModelConfig
from fm9g.model.context import Context, Documents, Places
from fm9g.model.cross_entropy import IGNORED, linear_cross_entropy, linear_scores
from fm9g.model.embedding import Embedding, noise
from fm9g.model.kernels import choose_kernel
from fm9g.model.kernels.kernel import Scores
from fm9g.model.linear import Linear
from fm9g.model.log_probs import log_probs
from fm9g.model.norm import norm
from fm9g.model.parameters import LAYERS
from fm9g.model.rotary import RotaryTable
from fm9g.model.shifted import cut
from fm9g.model.softcap import capped
from fm9g.runtime import bmt

Prepare = Callable[[str, torch.nn.Module], None]
TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


def as_it_is(name: str, module: torch.nn.Module) -> None:
    """Leave a part of the model alone."""


class Encoder(bmt.DistributedModule):
    """The transformer blocks and the norm after them."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, flash: str, use_checkpoint: bool, prepare: Prepare
    ) -> None:
        super().__init__()
        self._num_experts = config.num_experts
        kind = RoutedBlock if config.num_experts else TransformerBlock
        blocks, kernels = [], []
        for number in range(config.num_layers):
            scores = Scores.of(config, number)
            kernels.append(choose_kernel(flash, dtype, runtime.backend.on_cuda, scores))
            block = kind(config, dtype, kernels[-1].attend, scores)
            prepare(f"{LAYERS}{number}", block)
            blocks.append(bmt.Block(block, use_checkpoint=use_checkpoint))
        self.layers = bmt.TransformerBlockList(blocks, num_hidden=2 if config.num_experts else 1)
        self.kernel_name = " and ".join(dict.fromkeys(kernel.name for kernel in kernels))
        self.output_layernorm = norm(config, dtype)
        prepare("encoder.output_layernorm", self.output_layernorm)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        x_TD = self._routed(x_TD, context) if self._num_experts else self.layers(x_TD, context)
        return self.output_layernorm(x_TD)

    def _routed(self, x_TD: Tensor, context: Context) -> Tensor:
        """Through blocks of experts; what their routers chose is left in the context's balance, if it has one."""
        routed_2E = torch.zeros(2, self._num_experts, device=x_TD.device)
        x_TD, routed_2E = self.layers(x_TD, routed_2E, context)
        if context.balance is not None:
            context.balance.sums = routed_2E
        return x_TD


class Decoder(bmt.DistributedModule):
    """A causal language model over packed documents.

    `flash` is the attention kernel (cuda: the best there is; none: the plain reference);
    `use_checkpoint` recomputes each block's activations in backward. `prepare(name, module)` changes each block
    (freezes its weights, adds to its layers) before BMTrain wraps it, which fixes where parameters lie and what is
    trained; and embedding, last norm and head. `neft_alpha`: of the noise on embeddings in training, 0 for none.
    `group`: the tokens among which each attends in training (S²-Attn), 0 for all of its document.
    """

    def __init__(
        self,
        config: ModelConfig,
        flash: str = "cuda",
        use_checkpoint: bool = False,
        prepare: Prepare = as_it_is,
        neft_alpha: float = 0.0,
        group: int = 0,
    ) -> None:
        super().__init__()
        self.config, self._neft_alpha, self._group = config, neft_alpha, group
        dtype = TORCH_DTYPES[config.dtype]
        self.input_embedding = Embedding(config.vocab_size, config.dim_model, config.init_std, dtype)
        prepare("input_embedding", self.input_embedding)
        if config.embedding_norm:
            self.embedding_norm = norm(config, dtype)
            prepare("embedding_norm", self.embedding_norm)
        self.encoder = Encoder(config, dtype, flash, use_checkpoint, prepare)
        if not config.tie_lm_head:
            self.lm_head = Linear(config.dim_model, config.vocab_size, config.init_std, dtype)
            prepare("lm_head", self.lm_head)
        self._places: Places = PlaceTable() if config.position == "alibi" else RotaryTable(config)

    def context(self, lengths: Sequence[int], cache: Cache | None = None) -> Context:
        """For documents of these lengths, one after another: make it once for a strip, or a step of generation."""
        device, size = runtime.device(), self._group
        made = Context.of(lengths, device, self._places, TORCH_DTYPES[self.config.dtype], cache)
        if not (size and self.training and cache is None and made.queries.longest > size):
            return made
        plain, shifted = (Documents.of(cut(lengths, size, shift), device) for shift in (0, size // 2))
        return replace(made, groups=(plain, shifted))

    def _head_weight(self) -> Tensor:
        weight_VD: Tensor = (self.input_embedding if self.config.tie_lm_head else self.lm_head).weight
        return F.normalize(weight_VD, dim=1) if self.config.head_norm else weight_VD

    def hidden(self, tokens_T: Tensor, context: Context) -> Tensor:
        """[T] token ids -> [T, dim_model], scaled for the head; of a tensor-parallel group each rank's own tokens."""
        x_TD = self.input_embedding(context.split.own(tokens_T))
        if self._neft_alpha and self.training:
            x_TD = x_TD + noise(x_TD, context, self._neft_alpha)
        if self.config.embedding_scale != 1:
            x_TD = x_TD * self.config.embedding_scale
        if self.config.embedding_norm:
            x_TD = self.embedding_norm(x_TD)
        if torch.is_grad_enabled() and not x_TD.requires_grad:
            x_TD.requires_grad_()  # frozen embeddings: a block gives back gradients of what it gets, or none at all
        x_TD = self.encoder(x_TD, context)
        return x_TD / self.config.width_ratio if self.config.width_ratio != 1 else x_TD

    def forward(self, tokens_T: Tensor, context: Context) -> Tensor:
        """[T] token ids -> [T, vocab_size] logits, all of them in memory: for inference and tests."""
        return self._logits(context.split.all(self.hidden(tokens_T, context)))

    def next_logits(self, tokens_T: Tensor, context: Context) -> Tensor:
        """The float32 logits [documents, vocab_size] of what follows each document."""
        last_TD = context.split.all(self.hidden(tokens_T, context))[context.queries.cu_seqlens[1:] - 1]
        return self._logits(last_TD).float()

    def _logits(self, hidden_ND: Tensor) -> Tensor:
        return capped(F.linear(hidden_ND, self._head_weight()), self.config.logit_softcap)

    def loss(
        self, tokens_T: Tensor, targets_T: Tensor, context: Context, factors_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The summed loss over valid targets (not -100), and the loss [T] of each token without gradient; each is
        multiplied by its factor, where there are any.

        Of a tensor-parallel group each rank sums its own tokens' losses, and is told all.
        """
        split = context.split
        own_targets = split.own(targets_T, IGNORED)
        own_factors = None if factors_T is None else split.own(factors_T)
        total, losses = linear_cross_entropy(
            self.hidden(tokens_T, context), self._head_weight(), own_targets, own_factors, self.config.logit_softcap
        )
        return total, split.all(losses)

    def scores(self, tokens_T: Tensor, targets_T: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Without gradients: the loss [T] of each token, and whether its target is the likeliest one, bool [T]."""
        own_targets = context.split.own(targets_T, IGNORED)
        losses, likeliest = linear_scores(
            self.hidden(tokens_T, context), self._head_weight(), own_targets, self.config.logit_softcap
        )
        return context.split.all(losses), context.split.all(likeliest.to(torch.uint8)).bool()

    def log_probs(self, tokens_T: Tensor, targets_T: Tensor, context: Context) -> Tensor:
        """The log-probability [T], float32, of each target, differentiable; 0, with no gradient, at -100.

        All ranks of a tensor-parallel group are told all, and must compute the same with them.
        """
        own_targets = context.split.own(targets_T, IGNORED)
        hidden_TD, softcap = self.hidden(tokens_T, context), self.config.logit_softcap
        return context.split.all(log_probs(hidden_TD, self._head_weight(), own_targets, softcap))
