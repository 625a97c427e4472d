"""BMTrain's tensor-parallel layers on 2 ranks, against one layer of plain torch, in float64."""

from __future__ import annotations

import bmtrain as bmt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.checks import run_checks

ROWS, DIM_IN, DIM_OUT, VOCABULARY = 8, 6, 10, 12

bmt.init_distributed(seed=7, tp_size=2)
RANK = bmt.config["tp_rank"]
DOUBLE = torch.float64


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def part(x: Tensor, dim: int) -> Tensor:
    """This rank's half."""
    return x.chunk(2, dim)[RANK].contiguous().cuda()


def gradients_of_parameters(layer: torch.nn.Module) -> dict[str, Tensor]:
    """Whole on every rank: what a step of 1 along the gradient takes away."""
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    return {name: before[name] - value for name, value in layer.state_dict().items()}


def reference(x: Tensor, weight: Tensor, bias: Tensor, factor: Tensor) -> dict[str, Tensor]:
    """Output and gradients of sum(linear(x) * factor)."""
    x, weight, bias = (value.clone().requires_grad_() for value in (x, weight, bias))
    output = F.linear(x, weight, bias)
    (output * factor).sum().backward()
    return {"output": output.detach(), "x": x.grad, "weight": weight.grad, "bias": bias.grad}


def check_column_parallel_linear() -> None:
    """Ranks hold half of the rows of x and half of the columns of the output."""
    x, factor = seeded(1, ROWS, DIM_IN), seeded(2, ROWS, DIM_OUT)
    weight, bias = seeded(3, DIM_OUT, DIM_IN), seeded(4, DIM_OUT)
    expected = reference(x, weight, bias, factor)
    for chunks in (1, 2):
        layer = bmt.nn.ColumnParallelLinear(DIM_IN, DIM_OUT, dtype=DOUBLE, async_gather_chunks=chunks)
        layer.load_state_dict({"weight": weight, "bias": bias})
        mine = part(x, 0).requires_grad_()
        output = layer(mine)
        torch.testing.assert_close(output, part(expected["output"], 1))
        (output * part(factor, 1)).sum().backward()
        torch.testing.assert_close(mine.grad, part(expected["x"], 0))
        for name, gradient in gradients_of_parameters(layer).items():
            torch.testing.assert_close(gradient, expected[name])


def check_column_parallel_linear_that_gathers_its_output() -> None:
    x, weight, bias = seeded(1, ROWS, DIM_IN), seeded(3, DIM_OUT, DIM_IN), seeded(4, DIM_OUT)
    layer = bmt.nn.ColumnParallelLinear(DIM_IN, DIM_OUT, dtype=DOUBLE, gather_output=True)
    layer.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(layer(part(x, 0)), F.linear(x, weight, bias))


def check_row_parallel_linear() -> None:
    """Ranks hold half of the columns of x and, after the reduce-scatter, half of the rows of the output."""
    x, factor = seeded(5, ROWS, DIM_IN), seeded(6, ROWS, DIM_OUT)
    weight, bias = seeded(7, DIM_OUT, DIM_IN), seeded(8, DIM_OUT)
    expected = reference(x, weight, bias, factor)
    layer = bmt.nn.RowParallelLinear(DIM_IN, DIM_OUT, dtype=DOUBLE)
    layer.load_state_dict({"weight": weight, "bias": bias})
    mine = part(x, 1).requires_grad_()
    output = layer(mine)
    torch.testing.assert_close(output, part(expected["output"], 0))
    (output * part(factor, 0)).sum().backward()
    torch.testing.assert_close(mine.grad, part(expected["x"], 1))
    torch.testing.assert_close(gradients_of_parameters(layer)["weight"], expected["weight"])


def check_row_parallel_linear_that_reduces_to_all() -> None:
    x, weight, bias = seeded(5, ROWS, DIM_IN), seeded(7, DIM_OUT, DIM_IN), seeded(8, DIM_OUT)
    layer = bmt.nn.RowParallelLinear(DIM_IN, DIM_OUT, dtype=DOUBLE, all_reduce_output=True)
    layer.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(layer(part(x, 1)), F.linear(x, weight, bias))


def check_vocabulary_parallel_embedding() -> None:
    weight = seeded(9, VOCABULARY, DIM_IN)
    embedding = bmt.nn.VPEmbedding(VOCABULARY, DIM_IN, dtype=DOUBLE)
    embedding.load_state_dict({"weight": weight})
    tokens = torch.tensor([[0, 5, 6], [11, 3, 3]], device="cuda")
    torch.testing.assert_close(embedding(tokens), weight[tokens])


def check_vocabulary_parallel_cross_entropy() -> None:
    """Each rank has the logits of half of the vocabulary."""
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        logits, targets = seeded(10, ROWS, VOCABULARY).to(dtype), torch.tensor([0, 5, 6, 11, 3, 7, 2, 9])
        whole = logits.float().clone().requires_grad_()
        expected = F.cross_entropy(whole, targets, reduction="sum")
        expected.backward()
        mine = part(logits, 1).requires_grad_()
        loss = bmt.loss.FusedCrossEntropy(reduction="sum", parallel=True)(mine, targets.cuda())
        loss.backward()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0.0)
        torch.testing.assert_close(mine.grad.float(), part(whole.grad, 1), rtol=tolerance, atol=tolerance)


def check_row_parallel_linear_with_a_split_input_is_rejected() -> None:
    """BMTrain 1.0.1 reduce-scatters a buffer of half the size needed: on a GPU it reads past its end."""
    layer = bmt.nn.RowParallelLinear(DIM_IN, DIM_OUT, dtype=DOUBLE, split_input=True, all_reduce_output=True)
    bmt.init_parameters(layer)
    output = layer(part(seeded(11, ROWS, DIM_IN), 0).requires_grad_())
    with pytest.raises(
        ValueError, match=r"reduceScatter: the send buffer holds 24 elements .* receive buffer's 24 \(times 2\)"
    ):
        output.sum().backward()


run_checks(globals())
