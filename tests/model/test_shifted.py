"""S²-Attn: what each token attends to in training, and that none sees what follows it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fm9g.model.alibi import PlaceTable, appended, slopes
from fm9g.model.context import Context, Documents
from fm9g.model.decoder import Decoder
from fm9g.model.kernels.chunked import chunked_attention
from fm9g.model.kernels.kernel import Attend
from fm9g.model.kernels.sdpa import sdpa_attention
from fm9g.model.shifted import cut, shifted_attention
from tests.model.dense import context_of, usual
from tests.model.pairs import config, gradients, tokens_and_targets

pytestmark = pytest.mark.usefixtures("single_rank")
LENGTHS, GROUP = [21, 8, 9, 1], 8


def test_documents_longer_than_a_group_are_cut_and_others_stay() -> None:
    assert cut(LENGTHS, GROUP, 0) == [8, 8, 5, 8, 8, 1, 1]
    assert cut(LENGTHS, GROUP, GROUP // 2) == [4, 8, 8, 1, 8, 4, 5, 1]
    assert cut([16], 8, 4) == [4, 8, 4]


def within_groups(query: Tensor, key: Tensor, value: Tensor, window: int = 0, slopes_H: Tensor | None = None) -> Tensor:
    """Attention with a dense mask for each head: in the same document, not ahead, in the same group, and one of the
    last `window`; each score lowered by slope times distance."""
    total, heads = query.shape[:2]
    key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
    document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.cat([torch.arange(length) for length in LENGTHS])
    long = torch.tensor(LENGTHS)[document] > GROUP
    outputs = []
    for head in range(heads):
        shift = 0 if head < heads // 2 else GROUP // 2
        group = torch.where(long, (place + shift) // GROUP, 0)
        seen = (document[:, None] == document) & (place[:, None] >= place) & (group[:, None] == group)
        if window:
            seen &= place[:, None] - place < window
        scores = query[:, head] @ key[:, head].T / query.shape[2] ** 0.5
        if slopes_H is not None:
            scores = scores - slopes_H[head] * (place[:, None] - place)
        outputs.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value[:, head])
    assert total == len(document)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("attend", [sdpa_attention, chunked_attention])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (6, 3), (3, 3)])
def test_it_is_attention_with_the_mask_written_out(attend: Attend, heads: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(sum(LENGTHS), count, 8, requires_grad=True) for count in (heads, kv_heads, kv_heads)]
    context = groups_of_context()
    factor = torch.randn(sum(LENGTHS), heads, 8)
    found = shifted_attention(attend, *inputs, context, usual(8), heads // 2)  # type: ignore[arg-type, call-arg]
    of_found = torch.autograd.grad((found * factor).sum(), inputs)
    query, key, value = inputs
    expected = within_groups(query, key, value)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(of_found, torch.autograd.grad((expected * factor).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def groups_of_context() -> Context:
    plain, shifted = (Documents.of(cut(LENGTHS, GROUP, shift), torch.device("cpu")) for shift in (0, GROUP // 2))
    return dataclasses.replace(context_of(LENGTHS), groups=(plain, shifted))


@pytest.mark.parametrize("attend", [sdpa_attention, chunked_attention])
def test_a_window_is_within_groups(attend: Attend) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(sum(LENGTHS), heads, 8) for heads in (4, 2, 2))
    found = shifted_attention(attend, query, key, value, groups_of_context(), usual(8)._replace(window=3), 2)
    expected = within_groups(query, key, value, window=3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, within_groups(query, key, value), atol=1e-2)


@pytest.mark.parametrize("attend", [sdpa_attention, chunked_attention])
def test_alibi_counts_distances_within_groups(attend: Attend) -> None:
    """Though places are a document's: a group's first token has none before it, however far in it stands."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(sum(LENGTHS), heads, 8) for heads in (4, 2, 2))
    context, scores, slopes_H = groups_of_context(), usual(8), slopes(4)
    places = PlaceTable()(context.position_ids, max(LENGTHS), torch.float32)
    inputs = appended(query, key, value, slopes_H / scores.scale, *places)
    found = shifted_attention(attend, *inputs, context, scores, 2)[..., :8]
    torch.testing.assert_close(found, within_groups(query, key, value, slopes_H=slopes_H), rtol=1e-5, atol=1e-5)


def made(group: int, use_checkpoint: bool = False) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(config(), use_checkpoint=use_checkpoint, group=group)
    generator = torch.Generator().manual_seed(1)
    noise = {name: 0.2 * torch.randn(x.shape, generator=generator) for name, x in model.state_dict().items()}
    model.load_state_dict(noise)
    return model


@pytest.mark.parametrize("training", [True, False])
def test_the_last_token_changes_nothing_before_it(training: bool) -> None:
    model = made(GROUP).train(training)
    tokens, _ = tokens_and_targets(61, LENGTHS)
    context = model.context(LENGTHS)
    assert (context.groups is not None) == training
    before = model(tokens, context)
    end = 0
    for length in LENGTHS:
        end += length
        changed = tokens.clone()
        changed[end - 1] = (changed[end - 1] + 1) % 61
        after = model(changed, model.context(LENGTHS))
        others = torch.arange(len(tokens)) != end - 1
        assert torch.equal(after[others], before[others])
        assert not torch.equal(after[end - 1], before[end - 1])


def test_evaluation_and_short_documents_are_dense() -> None:
    model, dense = made(GROUP), made(0)
    tokens, _ = tokens_and_targets(61, LENGTHS)
    assert not torch.equal(model(tokens, model.context(LENGTHS)), dense(tokens, dense.context(LENGTHS)))
    assert torch.equal(model.eval()(tokens, model.context(LENGTHS)), dense.eval()(tokens, dense.context(LENGTHS)))
    short = [8, 8, 5]
    assert model.train().context(short).groups is None


def test_recomputing_changes_nothing() -> None:
    tokens, targets = tokens_and_targets(61, LENGTHS)
    found = []
    for use_checkpoint in (False, True):
        model = made(GROUP, use_checkpoint)
        model.loss(tokens, targets, model.context(LENGTHS))[0].backward()
        found.append(gradients(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
