"""BMTrain's pipeline on 2 stages, against plain torch, in float64."""

from __future__ import annotations

import bmtrain as bmt
import torch
from bmtrain.pipe_layer import PipelineTransformerBlockList
from torch import Tensor
from torch.nn import functional as F

from tests.support.checks import run_checks

DIM, ROWS, LAYERS = 5, 4, 3

bmt.init_distributed(seed=7, pipe_size=2, num_micro_batches=2)
STAGE = bmt.config["topology"].stage_id


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Layer(bmt.DistributedModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = bmt.DistributedParameter(seeded(seed, DIM, DIM).cuda() / 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x @ self.weight)


def check_activations_travel_between_stages() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64):
        sent = (torch.arange(6).view(2, 3) + 1).to(dtype)
        if STAGE == 0:
            bmt.distributed.send_activations(sent.cuda(), 1, bmt.config["pipe_comm"])
        else:
            received = bmt.distributed.recv_activations(0, bmt.config["pipe_comm"])
            assert received.dtype == dtype
            assert torch.equal(received, sent)


def check_the_pipeline_computes_what_torch_does() -> None:
    """Every rank gives its own rows and gets its own rows back, with the gradient of its input."""
    x, factor = seeded(50, ROWS, 2, DIM), seeded(51, ROWS, 2, DIM)
    weights = [(seeded(layer, DIM, DIM) / 2).requires_grad_() for layer in range(LAYERS)]
    theirs = x.clone().requires_grad_()
    states = [theirs]
    for weight in weights:
        states.append(F.gelu(states[-1] @ weight))
    (states[-1] * factor).sum().backward()

    model = PipelineTransformerBlockList([bmt.Block(Layer(layer), mode="PIPE") for layer in range(LAYERS)])
    rows = slice(STAGE * ROWS // 2, (STAGE + 1) * ROWS // 2)
    mine = x[rows].clone().cuda().requires_grad_()
    output = model(mine)
    torch.testing.assert_close(output, states[-1][rows].detach())
    (output * factor[rows].cuda()).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad[rows])
    for layer in model.layer_ids:
        before = model[layer].state_dict()["weight"].clone()
        torch.optim.SGD(model[layer].parameters(), lr=1.0).step()
        torch.testing.assert_close(before - model[layer].state_dict()["weight"], weights[layer].grad)


def check_hidden_states_of_every_layer() -> None:
    x = seeded(52, ROWS, 2, DIM)
    states = [x]
    for layer in range(LAYERS):
        states.append(F.gelu(states[-1] @ (seeded(layer, DIM, DIM) / 2)))
    model = PipelineTransformerBlockList([bmt.Block(Layer(layer), mode="PIPE") for layer in range(LAYERS)])
    rows = slice(STAGE * ROWS // 2, (STAGE + 1) * ROWS // 2)
    output, hidden = model(x[rows].clone().cuda(), return_hidden_states=True)
    torch.testing.assert_close(output, states[-1][rows])
    torch.testing.assert_close(hidden, torch.stack(states[:-1])[:, rows])


run_checks(globals())
