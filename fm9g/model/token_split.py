"""How the tokens of a strip lie on the ranks of a tensor-parallel group.

Between the layers each rank has a stretch of them: norms, residuals, embedding, head and loss cost each rank its share
of tokens, with all of their weights. Attention and feed-forward take all tokens, with the rank's share of heads and of
columns; what comes out is a sum over the ranks, of which each keeps its stretch (Korthikanti et al.,
https://arxiv.org/abs/2205.05198, section 4.2.2). A rank that is alone has everything, and nothing is moved.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from fm9g.model.cut import part
from fm9g.runtime import tensor_parallel


@dataclass(frozen=True)
class TokenSplit:
    """T tokens over `ranks`: each has `share` of them, the last ones with padding that nothing comes of."""

    tokens: int
    rank: int
    ranks: int

    @classmethod
    def of(cls, tokens: int) -> TokenSplit:
        """So many tokens, on the ranks of this one's group."""
        return cls(tokens, tensor_parallel.rank(), tensor_parallel.size())

    @property
    def share(self) -> int:
        return -(-self.tokens // self.ranks)

    def own(self, values_T: Tensor, padding: int = 0) -> Tensor:
        """[T, ...] -> [share, ...]: this rank's."""
        if self.ranks == 1:
            return values_T
        own = values_T[self.rank * self.share : (self.rank + 1) * self.share]
        return self._padded(own, self.share, padding)

    def all_for_parts(self, own_s: Tensor) -> Tensor:
        """[share, ...] -> [T, ...], for layers of which each rank has a part."""
        return own_s if self.ranks == 1 else tensor_parallel.gathered_for_parts(own_s)[: self.tokens]

    def sum_of_parts(self, partial_T: Tensor) -> Tensor:
        """[T, ...] of which each rank has a summand -> this rank's [share, ...] of the sum."""
        if self.ranks == 1:
            return partial_T
        return tensor_parallel.summed(self._padded(partial_T, self.share * self.ranks))

    def all(self, own_s: Tensor) -> Tensor:
        """[share, ...] -> [T, ...], with which all ranks compute the same."""
        return own_s if self.ranks == 1 else tensor_parallel.gathered_for_all(own_s)[: self.tokens]

    def own_head(self, heads_TGd: Tensor) -> Tensor:
        """[T, G, dim_head] of fewer heads than ranks -> [T, 1, dim_head], that of this rank's queries."""
        if self.ranks == 1:
            return heads_TGd
        return heads_TGd.narrow(1, self.rank // part(self.ranks, heads_TGd.shape[1]), 1)

    def _padded(self, values: Tensor, length: int, padding: int = 0) -> Tensor:
        missing = length - values.shape[0]
        return F.pad(values, (0, 0) * (values.dim() - 1) + (0, missing), value=padding) if missing else values
