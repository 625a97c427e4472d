"""ALiBi: slopes, and that kernels that know nothing of it attend with it, in every dtype."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from fm9g.model.alibi import PlaceTable, appended, slopes
from fm9g.model.config import ALIBI_LENGTH
from fm9g.model.kernels.plain import plain_attention
from fm9g.model.kernels.sdpa import sdpa_attention
from tests.model.dense import context_of, usual


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 40, 112])
def test_slopes_are_blooms(heads: int) -> None:
    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32).view(heads, 2)[:, 1]
    torch.testing.assert_close(slopes(heads), theirs, rtol=1e-6, atol=0)


def lowered(query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
    """Attention in one document whose scores are lowered by slope times distance, in float64."""
    query, key, value = query.double(), key.double(), value.double()
    places = torch.arange(length)
    distance = places[:, None] - places
    scores = torch.einsum("thd,shd->hts", query, key) / math.sqrt(query.size(-1))
    scores = scores - slopes(query.size(1)).double()[:, None, None] * distance
    return torch.einsum("hts,shd->thd", scores.masked_fill(distance < 0, -math.inf).softmax(-1), value)


@pytest.mark.parametrize("attend", [plain_attention, sdpa_attention])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6), (torch.float16, 2**-9)]
)
def test_far_and_near_keys_count_as_they_should(attend: object, dtype: torch.dtype, tolerance: float) -> None:
    """In a text so long that a half-precision number cannot tell its places apart."""
    torch.manual_seed(0)
    length, heads, dim = 1200, 6, 16
    query, key, value = (torch.randn(length, heads, dim).to(dtype) for _ in range(3))
    scores = usual(dim)
    places = PlaceTable()(torch.arange(length), length, dtype)
    inputs = appended(query, key, value, slopes(heads) / scores.scale, *places)
    found = attend(*inputs, context_of([length]), scores)[..., :dim]  # type: ignore[operator]
    assert (found.double() - lowered(query, key, value, length)).abs().max() < tolerance * 4


def test_places_restart_with_each_document_and_are_exact() -> None:
    (places,) = PlaceTable()(torch.tensor([0, 255, 256, 65535]), ALIBI_LENGTH, torch.float16)
    assert places[:, 0, 0].add(places[:, 0, 2].float()).tolist() == [0, 255, 256, 65535]
    assert places.shape == (4, 1, 8)
    with pytest.raises(AssertionError, match="a third digit"):
        PlaceTable()(torch.tensor([0]), ALIBI_LENGTH + 1, torch.float16)
