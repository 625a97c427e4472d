"""torch's scaled_dot_product_attention over packed documents, short ones together in padded batches.

Causal attention lets no token see what follows it, so padding at a document's end changes nothing before it.
A call for every short document costs several times as much as one for all (measured on a CPU: 4x at 48 tokens).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.context import Context, Documents
from fm9g.model.kernels.kernel import Kernel, everywhere, for_every_head

LONGEST_BATCHED = 512


def _padded_length(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, …: at most half as long again."""
    size = 16
    while size < length:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return size


def _batches(lengths: tuple[int, ...]) -> list[tuple[int, list[int]]]:
    """(padded length, numbers of the documents) of each batch; a long document is one of its own, unpadded."""
    by_length: dict[int, list[int]] = defaultdict(list)
    batches: list[tuple[int, list[int]]] = []
    for number, length in enumerate(lengths):
        if length > LONGEST_BATCHED:
            batches.append((length, [number]))
        else:
            by_length[_padded_length(length)].append(number)
    # a batch of equals needs no padding
    return batches + [(max(lengths[n] for n in members), members) for members in by_length.values()]


def _places(documents: Documents, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch, the token at each place [documents, padded length], and which places are not padding."""
    starts = torch.tensor([0, *documents.lengths]).cumsum(0)
    for length, members in _batches(documents.lengths):
        offsets = torch.arange(length)
        sizes = torch.tensor([documents.lengths[n] for n in members]).unsqueeze(1)
        tokens = starts[members].unsqueeze(1) + torch.minimum(offsets, sizes - 1)
        yield tokens.to(device), (offsets < sizes).to(device)


def batched_attention(query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
    """The same for documents of one length, as a batch: on Hopper, torch has faster kernels for those (cuDNN's)."""
    key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    q, k, v = (x.unflatten(0, (len(context.queries.lengths), -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(0, 1)


def sdpa_attention(query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
    """query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]."""
    key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    outputs, order = [], []
    for tokens_nL, valid_nL in _places(context.queries, query.device):
        n, length = tokens_nL.shape
        q, k, v = (
            x.index_select(0, tokens_nL.flatten()).view(n, length, *x.shape[1:]).transpose(1, 2)
            for x in (query, key, value)
        )
        output_nLHd = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        kept = valid_nL.flatten().nonzero().squeeze(1)
        outputs.append(output_nLHd.flatten(0, 1).index_select(0, kept))
        order.append(tokens_nL.flatten()[kept])
    return torch.cat(outputs).index_select(0, torch.cat(order).argsort())


KERNEL = Kernel("torch sdpa", everywhere, sdpa_attention)
