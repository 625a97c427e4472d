"""Attention: which kernel runs where, and that each computes masked softmax attention within documents."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fm9g.model.context import Documents
from fm9g.model.kernels import choose_kernel, chunked, plain, sdpa
from fm9g.model.kernels.chunked import chunked_attention
from fm9g.model.kernels.kernel import Attend, Scores
from fm9g.model.kernels.plain import plain_attention
from fm9g.model.kernels.sdpa import batched_attention, sdpa_attention
from tests.model.dense import context_of, dense, usual

HALF_TYPES = (torch.float16, torch.bfloat16)
ATTENDS = (plain_attention, sdpa_attention, chunked_attention)
USUAL = usual(4)
WINDOW, CAPPED = USUAL._replace(window=2), USUAL._replace(softcap=3.0)
LENGTHS = ([17], [1], [5, 1, 8, 3], [1, 1, 1], [6, 6])
FLASH, VARLEN = "flash_attn", "torch.nn.attention.varlen"


class Recorded:
    """A kernel of another library that notes how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def flash_attn(
        self,
        query,
        key,
        value,
        cu_q,
        cu_k,
        max_q,
        max_k,
        *,
        causal=False,
        softmax_scale=None,
        window_size=(-1, -1),
        softcap=0.0,
    ) -> Tensor:  # type: ignore[no-untyped-def]
        self.calls.append((cu_q.tolist(), cu_k.tolist(), max_q, max_k, causal, softmax_scale, window_size, softcap))
        return query

    def varlen(
        self, query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
    ) -> Tensor:  # type: ignore[no-untyped-def]
        self.calls.append((cu_q.tolist(), cu_k.tolist(), max_q, max_k, scale, window_size, enable_gqa))
        return query

    def ungrouped_varlen(
        self, query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)
    ) -> Tensor:  # type: ignore[no-untyped-def]
        self.calls.append((key.shape, value.shape, window_size))
        return query

    def old_varlen(self, query, key, value, cu_q, cu_k, max_q, max_k, is_causal=False) -> Tensor:  # type: ignore[no-untyped-def]
        raise AssertionError("its causal attention is another setting")

    def old_flash_attn(self, query, key, value, cu_q, cu_k, max_q, max_k, causal=False, softmax_scale=None) -> Tensor:  # type: ignore[no-untyped-def]
        raise AssertionError("it knows neither windows nor soft caps")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make flash-attn and torch's varlen attention be there, or (None) not be there."""

    def install(flash: Any = None, torch_varlen: Any = None) -> None:
        found = {FLASH: ("flash_attn_varlen_func", flash), VARLEN: ("varlen_attn", torch_varlen)}
        for name, (function, value) in found.items():
            module = ModuleType(name)
            setattr(module, function, value)
            monkeypatch.setitem(sys.modules, name, module if value is not None else None)  # type: ignore[arg-type]

    return install


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_flash_attention_comes_first(dtype: torch.dtype, install: Callable[..., None]) -> None:
    other = Recorded()
    install(flash=other.flash_attn, torch_varlen=other.varlen)
    kernel = choose_kernel("cuda", dtype, on_cuda=True, scores=USUAL)
    assert kernel.name == "flash-attn"
    output = kernel.attend(torch.ones(5, 2, 4), torch.ones(5, 1, 4), torch.ones(5, 1, 4), context_of([2, 3]), USUAL)
    assert output.shape == (5, 2, 4)
    assert other.calls == [([0, 2, 5], [0, 2, 5], 3, 3, True, 0.5, (-1, -1), 0.0)]


def test_torchs_varlen_attention_comes_second(install: Callable[..., None]) -> None:
    other = Recorded()
    install(torch_varlen=other.varlen)
    kernel = choose_kernel("cuda", torch.bfloat16, on_cuda=True, scores=USUAL)
    assert kernel.name == "torch varlen"
    kernel.attend(torch.ones(5, 2, 4), torch.ones(5, 1, 4), torch.ones(5, 1, 4), context_of([2, 3]), USUAL)
    assert other.calls == [([0, 2, 5], [0, 2, 5], 3, 3, 0.5, (-1, 0), True)]


@pytest.mark.parametrize(("lengths", "equal"), [([5], True), ([2, 2], True), ([2, 3], False), ([3, 1, 2], False)])
def test_documents_of_one_length_are_a_batch_for_torch(
    lengths: list[int], equal: bool, install: Callable[..., None]
) -> None:
    other = Recorded()
    install(torch_varlen=other.varlen)
    kernel = choose_kernel("cuda", torch.bfloat16, on_cuda=True, scores=USUAL)
    kernel.attend(*[torch.ones(sum(lengths), 2, 4)] * 3, context_of(lengths), USUAL)  # type: ignore[arg-type, call-arg]
    assert (other.calls == []) == equal


def test_a_varlen_attention_that_knows_no_groups_gets_keys_for_every_head(install: Callable[..., None]) -> None:
    other = Recorded()
    install(torch_varlen=other.ungrouped_varlen)
    kernel = choose_kernel("cuda", torch.bfloat16, on_cuda=True, scores=USUAL)
    for kv_heads in (1, 2):
        kernel.attend(torch.ones(5, 2, 4), *[torch.ones(5, kv_heads, 4)] * 2, context_of([2, 3]), USUAL)  # type: ignore[arg-type, call-arg]
    assert other.calls == [((5, 2, 4), (5, 2, 4), (-1, 0))] * 2


@pytest.mark.parametrize("torch_varlen", [None, Recorded().old_varlen])
def test_sdpa_is_what_is_left(torch_varlen: Any, install: Callable[..., None]) -> None:
    install(torch_varlen=torch_varlen)
    assert choose_kernel("cuda", torch.bfloat16, on_cuda=True, scores=USUAL) is sdpa.KERNEL


def test_windows_and_soft_caps_are_told_to_kernels_that_know_them(install: Callable[..., None]) -> None:
    other = Recorded()
    install(flash=other.flash_attn, torch_varlen=other.varlen)
    for scores in (WINDOW, CAPPED):
        kernel = choose_kernel("cuda", torch.bfloat16, on_cuda=True, scores=scores)
        kernel.attend(torch.ones(5, 2, 4), *[torch.ones(5, 1, 4)] * 2, context_of([2, 3]), scores)  # type: ignore[arg-type, call-arg]
    install(torch_varlen=other.varlen)
    kernel = choose_kernel("cuda", torch.bfloat16, on_cuda=True, scores=WINDOW)
    kernel.attend(torch.ones(6, 2, 4), *[torch.ones(6, 1, 4)] * 2, context_of([3, 3]), WINDOW)  # type: ignore[arg-type, call-arg]
    assert [call[5:] for call in other.calls] == [(0.5, (1, 0), 0.0), (0.5, (-1, -1), 3.0), ((1, 0), True)]


def test_no_kernel_is_given_what_it_does_not_know(install: Callable[..., None]) -> None:
    install(flash=Recorded().old_flash_attn, torch_varlen=Recorded().varlen)
    chosen = {scores: choose_kernel("cuda", torch.bfloat16, True, scores).name for scores in (USUAL, WINDOW, CAPPED)}
    assert list(chosen.values()) == ["flash-attn", "torch varlen", "chunked"]
    assert choose_kernel("cuda", torch.float32, False, CAPPED) is chunked.KERNEL


@pytest.mark.parametrize(("dtype", "on_cuda"), [(torch.float32, True), (torch.bfloat16, False)])
def test_flash_kernels_are_for_half_types_on_cuda(
    dtype: torch.dtype, on_cuda: bool, install: Callable[..., None]
) -> None:
    install(flash=Recorded().flash_attn, torch_varlen=Recorded().varlen)
    assert choose_kernel("cuda", dtype, on_cuda, USUAL) is sdpa.KERNEL


def test_none_is_the_plain_reference_everywhere(install: Callable[..., None]) -> None:
    install(flash=Recorded().flash_attn, torch_varlen=Recorded().varlen)
    for dtype in (torch.float32, *HALF_TYPES):
        assert choose_kernel("none", dtype, on_cuda=True, scores=USUAL) is plain.KERNEL


@pytest.mark.parametrize(
    ("attend", "lengths"),
    [
        *((attend, lengths) for attend in ATTENDS for lengths in LENGTHS),
        *((batched_attention, lengths) for lengths in LENGTHS if len(set(lengths)) == 1),
    ],
)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_kernels_are_masked_softmax_attention(attend: Attend, lengths: list[int], kv_heads: int) -> None:
    torch.manual_seed(0)
    shapes = SimpleNamespace(q=(sum(lengths), 4, 6), kv=(sum(lengths), kv_heads, 6))
    inputs = [torch.randn(shape, requires_grad=True) for shape in (shapes.q, shapes.kv, shapes.kv)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    output, expected = attend(*inputs, context_of(lengths), usual(6)), dense(*exact, lengths)  # type: ignore[arg-type, call-arg]
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    factor = torch.randn_like(output)
    (output * factor).sum().backward()
    (expected * factor.double()).sum().backward()
    for mine, theirs in zip(inputs, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attend", "scores"),
    [
        *((attend, scores) for attend in ATTENDS for scores in (Scores(0.3), Scores(0.4, 3), Scores(0.4, 300))),
        *((attend, Scores(1.0, window, 1.5)) for attend in (plain_attention, chunked_attention) for window in (0, 2)),
    ],
)
@pytest.mark.parametrize("lengths", [[17], [5, 1, 8, 3], [6, 6], [700, 2]], ids=str)
def test_scores_are_scaled_capped_and_within_a_window(attend: Attend, scores: Scores, lengths: list[int]) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(sum(lengths), heads, 6, requires_grad=True) for heads in (4, 2, 2)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    output, expected = attend(*inputs, context_of(lengths), scores), dense(*exact, lengths, scores)  # type: ignore[arg-type, call-arg]
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    factor = torch.randn_like(output)
    (output * factor).sum().backward()
    (expected * factor.double()).sum().backward()
    for mine, theirs in zip(inputs, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_types_come_back_as_they_went_in(attend: Attend, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lengths = [5, 8]
    inputs = [torch.randn(13, heads, 8).to(dtype) for heads in (4, 2, 2)]
    output = attend(*inputs, context_of(lengths), usual(8))  # type: ignore[arg-type, call-arg]
    assert output.dtype == dtype
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), dense(*inputs, lengths), rtol=tolerance, atol=tolerance)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize("queries", [[1, 1, 1, 1], [3, 1, 8, 2], [2, 5, 8, 600]])
@pytest.mark.parametrize("window", [0, 5])
def test_queries_of_the_last_keys_see_what_they_saw_in_the_whole_document(
    attend: Attend, queries: list[int], window: int
) -> None:
    """As when a text goes on after what was read before."""
    torch.manual_seed(0)
    keys, device = [17, 5, 8, 600], torch.device("cpu")
    query, key, value = (torch.randn(sum(keys), heads, 6) for heads in (4, 2, 2))
    whole = context_of(keys)
    last = torch.cat(
        [torch.arange(end - n, end) for end, n in zip(whole.keys.cu_seqlens[1:].tolist(), queries, strict=True)]
    )
    context = dataclasses.replace(whole, queries=Documents.of(queries, device))
    scores = usual(6)._replace(window=window)
    found, expected = attend(query[last], key, value, context, scores), attend(query, key, value, whole, scores)[last]
    torch.testing.assert_close(found, expected)


def test_positions_restart_at_every_document() -> None:
    context = context_of([3, 1, 2])
    assert context.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert context.queries.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert (context.queries.cu_seqlens.dtype, context.queries.longest) == (torch.int32, 3)
