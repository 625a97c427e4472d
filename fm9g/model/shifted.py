"""S²-Attn (Chen et al., https://arxiv.org/abs/2309.12307, section 3.2): training on long documents, each token
attending to those of its group alone, half of the heads in groups that lie half a group further on.

The authors roll the second half's tokens round, so that a row's first tokens see its last ones. Here the two halves of
a group at a document's ends stay groups of their own, and no token sees what follows it. For a kernel groups are what
documents are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Attend, Scores, for_every_head


def cut(lengths: Sequence[int], size: int, shift: int) -> list[int]:
    """Documents that are longer than a group, cut every `size` tokens from their token `shift` on; others whole."""
    return [part for length in lengths for part in (_parts(length, size, shift) if length > size else [length])]


def _parts(length: int, size: int, shift: int) -> Iterator[int]:
    bounds = [0, *range(shift or size, length, size), length]
    return (stop - start for start, stop in itertools.pairwise(bounds))


def shifted_attention(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores, unshifted: int
) -> Tensor:
    """As `attend`, within the groups of `context`: `unshifted` heads in the first ones, the rest in the others."""
    assert context.groups is not None
    heads, kv_heads = query.shape[1], key.shape[1]
    if unshifted in (0, heads):
        groups = context.groups[0 if unshifted else 1]
        return attend(query, key, value, replace(context, queries=groups, keys=groups), scores)
    if unshifted * kv_heads % heads:  # a head of keys that both need
        key, value = (for_every_head(x, heads) for x in (key, value))
    shares = (unshifted, heads - unshifted)
    of_keys = [share * key.shape[1] // heads for share in shares]
    halves = zip(query.split(shares, 1), key.split(of_keys, 1), value.split(of_keys, 1), context.groups, strict=True)
    outputs = [attend(q, k, v, replace(context, queries=of, keys=of), scores) for q, k, v, of in halves]
    return torch.cat(outputs, 1)
