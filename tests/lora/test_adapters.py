"""Adapters in a model: their names, what is trained, and that at first they change nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from fm9g.lora.adapters import Adapters
from fm9g.lora.layers import adapter_parameters
from fm9g.lora.low_rank import Dora
from fm9g.lora.merge import row_lengths
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.model.linear import Linear
from fm9g.model.parameters import parameters
from fm9g.runtime import bmt
from fm9g.runtime.shards import whole_shapes
from fm9g.training.settings import Settings

pytestmark = pytest.mark.usefixtures("single_rank")
CONFIG = ModelConfig(
    vocab_size=61, dim_model=32, num_heads=4, num_kv_heads=2, num_layers=2, dim_ff=48, init_std=0.1, dtype="float32"
)
TOKENS = torch.randint(0, 61, (20,), generator=torch.Generator().manual_seed(0))


def adapted(use_checkpoint: bool = False, config: ModelConfig = CONFIG, **settings: Any) -> Decoder:
    """A decoder with adapters at their beginning."""
    settings = {"lora_layer": ["all"], "lora_r": 4, **settings}
    adapters = Adapters(Settings(lora=True, pretrained_model="x", **settings), config)
    model = Decoder(config, use_checkpoint=use_checkpoint, prepare=adapters.prepare)
    bmt.init_parameters(model)
    adapters.begin(model)
    return model


def base_of(model: Decoder) -> Decoder:
    """The same without adapters."""
    base = Decoder(model.config)
    base.load_state_dict({name: value for name, value in model.state_dict().items() if ".lora." not in name})
    return base


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("layers", [["all"], ["project_q", "w_out"]])
def test_names_and_shapes_are_those_of_the_table(layers, dora):
    found = whole_shapes(adapted(lora_layer=layers, use_dora=dora))
    table = adapter_parameters(CONFIG, layers, 4, dora)
    assert {name: shape for name, shape in found.items() if ".lora." in name} == {p.name: p.shape for p in table}
    assert found.keys() - {p.name for p in table} == {p.name for p in parameters(CONFIG)}


@pytest.mark.parametrize("use_checkpoint", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_at_first_the_logits_are_the_bases_bit_for_bit(dora, use_checkpoint):
    model = adapted(use_checkpoint, use_dora=dora)
    base = base_of(model)
    with torch.no_grad():
        assert torch.equal(model(TOKENS, model.context([12, 8])), base(TOKENS, base.context([12, 8])))


@pytest.mark.parametrize("use_checkpoint", [False, True])
@pytest.mark.parametrize("saved", [[], ["input_embedding"], ["lm_head", "embed_tokens"]])
def test_adapters_and_what_is_saved_whole_have_gradients_and_nothing_else_has(saved, use_checkpoint):
    model = adapted(use_checkpoint, modules_to_save=saved)
    model.loss(TOKENS, TOKENS, model.context([12, 8]))[0].backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    whole = {"input_embedding.weight", "lm_head.weight"} if len(saved) == 2 else {f"{name}.weight" for name in saved}
    assert trained == {name for name in whole_shapes(model) if ".lora." in name} | whole
    assert trained == {name for name, value in model.named_parameters() if value.requires_grad}


def test_recomputing_gives_the_same_gradients():
    torch.manual_seed(3)
    plain = adapted()
    torch.nn.init.normal_(plain.encoder.layers[1]._module.ffn.ffn.w_out.lora.lora_B.data)
    recomputing = adapted(use_checkpoint=True)
    recomputing.load_state_dict(plain.state_dict())
    for model in (plain, recomputing):
        model.loss(TOKENS, TOKENS, model.context([12, 8]))[0].backward()
    gradients = [
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in (plain, recomputing)
    ]
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_what_goes_in_is_dropped_out_in_training_alone():
    model = adapted(lora_dropout=0.5)
    torch.nn.init.normal_(model.encoder.layers[0]._module.ffn.ffn.w_out.lora.lora_B.data)
    with torch.no_grad():
        first, second = (model(TOKENS, model.context([20])) for _ in range(2))
        assert not torch.equal(first, second)
        model.eval()
        first, second = (model(TOKENS, model.context([20])) for _ in range(2))
        assert torch.equal(first, second)


def test_dora_leaves_a_bias_as_it_is():
    torch.manual_seed(0)
    layer = Linear(8, 6, 0.1, torch.float32, bias=True)
    dora = Dora(layer, 4, 2.0, 0.0)
    for module in (layer, dora):
        bmt.init_parameters(module)
    torch.nn.init.normal_(layer.bias.data)
    torch.nn.init.normal_(dora.lora_B.data)
    x = torch.randn(5, 8)
    with torch.no_grad():
        whole = layer.weight + 2.0 * dora.lora_B @ dora.lora_A
        dora.load_state_dict({"magnitude": row_lengths(whole) * 1.5}, strict=False)
        assert torch.allclose(dora(x, layer(x)), 1.5 * x @ whole.T + layer.bias, rtol=1e-5, atol=1e-6)


def test_opendelta_leaves_nothing_that_it_was_given():
    """In a process of its own: here it may have been imported before."""
    code = """
import sys
from fm9g.lora import opendelta
opendelta._lora_model()
assert "opendelta" in sys.modules
made = [name for name in opendelta.STAND_INS if name in sys.modules and sys.modules[name].__spec__ is None]
stand_ins = [
    (name, attribute) for name, attributes in opendelta.STAND_INS.items() for attribute in attributes
    if getattr(sys.modules.get(name), attribute, None) is opendelta.Absent
]
assert not made and not stand_ins, (made, stand_ins)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dora_moves_rows_by_less_than_half_precision_tells_apart(dtype):
    """Lengths that are 0.3 % longer make an output that is: their ratio is 1 in bf16, what they differ by is not 0."""
    torch.manual_seed(0)
    layer = Linear(64, 48, 0.1, dtype)
    dora = Dora(layer, 4, 2.0, 0.0)
    bmt.init_parameters(layer)
    bmt.init_parameters(dora)
    x = torch.randn(256, 64).to(dtype)
    with torch.no_grad():
        dora.load_state_dict({"magnitude": row_lengths(layer.weight) * 1.003}, strict=False)
        before, found = layer(x).float(), dora(x, layer(x)).float()
    assert dora.magnitude.dtype == torch.float32
    longer = float(((found - before) * before).sum() / before.square().sum())
    assert longer == pytest.approx(0.003, rel=0.5)  # each number is rounded, to one that is longer or to itself
