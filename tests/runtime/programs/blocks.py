"""BMTrain's blocks against the same layers in plain torch, in float64: written for a GPU, CUDA names and all."""

from __future__ import annotations

import itertools

import bmtrain as bmt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.checks import run_checks

DIM, ROWS, LAYERS = 7, 8, 3

bmt.init_distributed(seed=7)
MY_ROWS = slice(bmt.rank() * ROWS // bmt.world_size(), (bmt.rank() + 1) * ROWS // bmt.world_size())
CHOICES = tuple(itertools.product((2, 3), (False, True)))  # ZeRO level, use_checkpoint


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Plain(nn.Module):
    """A residual layer in torch."""

    def __init__(self, seed: int, dim_out: int = DIM) -> None:
        super().__init__()
        self.weight = nn.Parameter(seeded(seed, dim_out, DIM) / 3)
        self.bias = nn.Parameter(seeded(seed + 1, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, self.weight, self.bias))


class Sharded(bmt.DistributedModule):
    """The same in BMTrain, its parameters sharded."""

    def __init__(self, seed: int, dim_out: int = DIM, train_bias: bool = True) -> None:
        super().__init__()
        self.weight = bmt.DistributedParameter((seeded(seed, dim_out, DIM) / 3).cuda())
        self.bias = bmt.DistributedParameter(seeded(seed + 1, dim_out).cuda(), requires_grad=train_bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, self.weight, self.bias))


def blocks(zero_level: int, use_checkpoint: bool, **settings: bool) -> bmt.TransformerBlockList:
    return bmt.TransformerBlockList(
        [
            bmt.Block(Sharded(10 * layer, **settings), use_checkpoint=use_checkpoint, zero_level=zero_level)
            for layer in range(LAYERS)
        ]
    )


def plain_layers() -> nn.Sequential:
    return nn.Sequential(*(Plain(10 * layer) for layer in range(LAYERS)))


def stepped(model: nn.Module) -> dict[str, Tensor]:
    """The parameters after a step of 1 along the gradient: whole on every rank, BMTrain's or torch's."""
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def assert_same(model: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert list(model) == list(reference)
    for name, value in model.items():
        torch.testing.assert_close(value, reference[name], rtol=1e-12, atol=1e-12)


def check_blocks_compute_what_torch_does() -> None:
    """Output, gradient of the input, and gradients of all parameters, each rank having its part of the rows."""
    x = seeded(99, ROWS, DIM)
    for zero_level, use_checkpoint in CHOICES:
        plain, sharded = plain_layers(), blocks(zero_level, use_checkpoint)
        theirs, mine = x.clone().requires_grad_(), x[MY_ROWS].clone().cuda().requires_grad_()
        expected, output = plain(theirs), sharded(mine)
        torch.testing.assert_close(output, expected[MY_ROWS])
        expected.square().sum().backward()
        output.square().sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad[MY_ROWS])
        assert_same(stepped(sharded), stepped(plain))


def check_inputs_without_gradient() -> None:
    """As after an embedding that is frozen: the first block must still train."""
    x = seeded(98, ROWS, DIM)
    for zero_level, use_checkpoint in CHOICES:
        plain, sharded = plain_layers(), blocks(zero_level, use_checkpoint)
        plain(x).square().sum().backward()
        sharded(x[MY_ROWS].cuda()).square().sum().backward()
        assert_same(stepped(sharded), stepped(plain))


def check_gradients_accumulate() -> None:
    first, second = seeded(97, ROWS, DIM), seeded(96, ROWS, DIM)
    plain, sharded = plain_layers(), blocks(3, True)
    for x in (first, second):
        plain(x).sum().backward()
        sharded(x[MY_ROWS].cuda()).sum().backward()
    assert_same(stepped(sharded), stepped(plain))


def check_frozen_parameters_stay_and_the_others_train() -> None:
    x = seeded(95, ROWS, DIM)
    plain = plain_layers()
    for layer in plain:
        layer.bias.requires_grad_(False)
    plain(x).square().sum().backward()
    expected = stepped(plain)
    for zero_level, use_checkpoint in CHOICES:
        sharded = blocks(zero_level, use_checkpoint, train_bias=False)
        sharded(x[MY_ROWS].cuda()).square().sum().backward()
        assert_same(stepped(sharded), expected)


def check_without_gradient() -> None:
    x = seeded(94, ROWS, DIM)
    for zero_level, use_checkpoint in CHOICES:
        with torch.no_grad():
            output = blocks(zero_level, use_checkpoint)(x[MY_ROWS].cuda())
        torch.testing.assert_close(output, plain_layers()(x)[MY_ROWS].detach())
        assert not output.requires_grad


def check_a_single_block_that_changes_the_width() -> None:
    x = seeded(93, ROWS, DIM)
    plain, sharded = Plain(5, dim_out=11), bmt.Block(Sharded(5, dim_out=11))
    plain(x).square().sum().backward()
    output = sharded(x[MY_ROWS].cuda())
    assert output.shape == (ROWS // bmt.world_size(), 11)
    output.square().sum().backward()
    assert_same(stepped(sharded), stepped(plain))


class TwoStreams(bmt.DistributedModule):
    """(a, b, scale) -> (a', b'): several hidden states, and an argument that every layer gets."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = bmt.DistributedParameter((seeded(seed, DIM, DIM) / 3).cuda())

    def forward(self, a: Tensor, b: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return (a @ self.weight + b) * scale, b.tanh() + a


def check_several_hidden_states() -> None:
    a, b = seeded(92, ROWS, DIM)[MY_ROWS], seeded(91, ROWS, DIM)[MY_ROWS]
    scale = torch.tensor(0.5, dtype=torch.float64)
    for zero_level, use_checkpoint in CHOICES:
        layers = [TwoStreams(10 * layer) for layer in range(LAYERS)]
        wrapped = [bmt.Block(layer, use_checkpoint=use_checkpoint, zero_level=zero_level) for layer in layers]
        model = bmt.TransformerBlockList(wrapped, num_hidden=2)
        inputs = [x.clone().cuda().requires_grad_() for x in (a, b)]
        last_a, last_b, all_a, all_b = model(*inputs, scale.cuda(), return_hidden_states=True)
        (last_a.sum() + (last_b * all_a[1]).sum() + all_b.square().sum()).backward()

        theirs = [x.clone().requires_grad_() for x in (a, b)]
        states = [theirs]
        for layer in range(LAYERS):
            x, y = states[-1]
            states.append([(x @ (seeded(10 * layer, DIM, DIM) / 3) + y) * scale, y.tanh() + x])
        before_a, before_b = (torch.stack([state[i] for state in states[:-1]]) for i in (0, 1))
        torch.testing.assert_close((last_a, last_b, all_a, all_b), (*states[-1], before_a, before_b))
        (states[-1][0].sum() + (states[-1][1] * before_a[1]).sum() + before_b.square().sum()).backward()
        torch.testing.assert_close([x.grad for x in inputs], [x.grad for x in theirs])


class Dropped(bmt.DistributedModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = bmt.DistributedParameter(torch.ones(64, dtype=torch.float64, device="cuda"))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x * self.weight, 0.5)


def check_recomputation_drops_the_same_elements() -> None:
    """What a block dropped in forward must be what it drops when it is computed again in backward."""
    for zero_level, use_checkpoint in CHOICES:
        for needs_grad in (False, True):
            block = bmt.Block(Dropped(), use_checkpoint=use_checkpoint, zero_level=zero_level)
            x = torch.ones(64, dtype=torch.float64, device=f"cuda:{bmt.rank()}").requires_grad_(needs_grad)
            output = block(x)
            torch.rand(5)  # moves the generator on
            output.sum().backward()
            assert 0 < (output == 0).sum() < 64
            torch.testing.assert_close(1 - stepped(block)["weight"], bmt.distributed.all_reduce(output.detach(), "sum"))


class Language(nn.Module):
    """A module of plain torch, for BMTrainModelWrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, DIM, dtype=torch.float64)
        self.layers = nn.ModuleList([Plain(10 * layer) for layer in range(LAYERS)])
        self.head = nn.Linear(DIM, 13, dtype=torch.float64)
        self.register_buffer("temperature", torch.tensor(2.0, dtype=torch.float64))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x) / self.temperature


def check_model_wrapper_computes_what_the_model_does() -> None:
    torch.manual_seed(3)
    plain = Language()
    wrapped = Language()
    wrapped.load_state_dict(plain.state_dict())
    wrapped = bmt.BMTrainModelWrapper(wrapped)
    assert all(isinstance(parameter, bmt.DistributedParameter) for parameter in wrapped.parameters())
    assert all(isinstance(layer, bmt.Block) for layer in wrapped.layers)
    tokens = torch.randint(0, 13, (ROWS, 4), generator=torch.Generator().manual_seed(0))
    expected, output = plain(tokens), wrapped(tokens[MY_ROWS].cuda())
    torch.testing.assert_close(output, expected[MY_ROWS])
    expected.square().sum().backward()
    output.square().sum().backward()
    assert_same(stepped(wrapped), stepped(plain))


def check_parameters_are_sharded() -> None:
    """A rank keeps its part of a block only (BMTrain aligns each parameter to 512 bytes)."""
    model = blocks(3, True)
    whole = LAYERS * (512 + 512)  # 7 x 7 and 7 float64 numbers, each rounded up
    kept = sum(8 * shard.numel() for block in model for _, group in block.grouped_parameters() for shard in group)
    assert kept == whole // bmt.world_size()


def check_initial_values_do_not_depend_on_the_number_of_ranks() -> None:
    torch.manual_seed(11)
    linear = bmt.nn.Linear(6, 5, dtype=torch.float64)
    bmt.init_parameters(linear)
    torch.manual_seed(11)
    expected = nn.init.xavier_normal_(torch.empty(5, 6, dtype=torch.float64))
    assert torch.equal(linear.state_dict()["weight"], expected)


def check_synchronize() -> None:
    bmt.synchronize()
    torch.cuda.synchronize()
    assert torch.cuda.current_device() == int(bmt.config["local_rank"])


run_checks(globals())
