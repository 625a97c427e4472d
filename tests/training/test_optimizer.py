"""Which parameters learn how fast, and with which loss scale."""

from typing import Any

import pytest
import torch

from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.runtime import bmt
from fm9g.training.optimizer import initial_loss_scale, make_optimizer, parameter_groups, set_learning_rate
from fm9g.training.optimizer_settings import OptimizerSettings
from fm9g.training.settings import Settings

pytestmark = pytest.mark.usefixtures("single_rank")
SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "dim_model": 32,
    "num_heads": 2,
    "num_layers": 2,
    "dim_ff": 48,
    "dtype": "float32",
}


@pytest.fixture
def model():
    """muP, four times as wide as its base; with biases, which are no matrices."""
    return Decoder(ModelConfig(**SHAPE, scale=True, dim_model_base=8, qkv_bias=True))


def names_of(model, group):
    return {name for name, value in model.named_parameters() if any(value is one for one in group["params"])}


def test_the_blocks_matrices_learn_slower_with_mup(model):
    matrices, others = parameter_groups(model)
    slower = names_of(model, matrices)
    of_blocks = {name for name, _ in model.named_parameters() if name.startswith("encoder.layers.")}
    assert slower == {name for name in of_blocks if "layernorm" not in name and not name.endswith(".bias")}
    assert len(slower) == 2 * 7
    assert names_of(model, others) == {name for name, _ in model.named_parameters()} - slower
    manager = make_optimizer(Settings(), model)
    set_learning_rate(manager, 0.1)
    assert [group["lr"] for group in manager.optimizers[0].param_groups] == [pytest.approx(0.1 / 4), 0.1]


def test_without_mup_all_learn_alike():
    assert [group["lr_scale"] for group in parameter_groups(Decoder(ModelConfig(**SHAPE)))] == [1.0, 1.0]


def test_what_is_frozen_is_left_as_it_is_and_takes_no_state():
    """Down to what no group of matrices has: biases alone, as adapters are."""

    def freeze(part, module):
        for name, parameter in module.named_parameters():
            if part.startswith("encoder.layers."):
                parameter.requires_grad_(name.endswith(".bias"))

    model = Decoder(ModelConfig(**SHAPE, qkv_bias=True), prepare=freeze)
    bmt.init_parameters(model)
    for part in (model.input_embedding, model.lm_head, model.encoder.output_layernorm):
        for parameter in part.parameters():
            parameter.requires_grad_(False)
    (group,) = parameter_groups(model)
    assert names_of(model, group) == {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    manager = make_optimizer(Settings(lr=0.1), model)
    tokens = torch.randint(40, (9,))
    manager.backward(model.loss(tokens[:-1], tokens[1:], model.context([8]))[0])
    manager.clip_grad_norm(manager.optimizers[0].param_groups, 1.0)
    manager.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    biases = {name for name in before if name.endswith(".bias")}
    assert {name for name in biases if "project_k" not in name} <= moved <= biases  # softmax does not see that of keys
    assert len(manager.optimizers[0].state) == 2 * 3


@pytest.mark.parametrize(
    ("dtype", "given", "scale"),
    [("fp16", None, 65536.0), ("bf16", None, None), ("bf16", 8.0, 8.0), ("fp16", 0.0, None)],
)
def test_only_fp16_is_scaled_unless_a_scale_is_given(dtype, given, scale):
    config = ModelConfig(**{**SHAPE, "dtype": dtype})
    assert initial_loss_scale(OptimizerSettings(loss_scale=given), config) == scale
