"""What a program's devices, and its own objects that speak of devices, answer where there is no GPU."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.rewritten import run, value_of


@pytest.mark.parametrize("is_cuda", [True, False, "unknown"])
@pytest.mark.parametrize("device", ["cuda", "cpu", "gpu0", 0, None, torch.device("cpu"), torch.device("cuda")])
@pytest.mark.parametrize("kind", [argparse.Namespace, SimpleNamespace])
def test_is_cuda_of_a_programs_own_object_is_its_own(kind: Any, device: Any, is_cuda: Any) -> None:
    assert value_of("thing.is_cuda", thing=kind(device=device, is_cuda=is_cuda)) == is_cuda


def test_is_cuda_of_a_programs_own_class_is_its_own() -> None:
    names = run(
        """
from typing import NamedTuple
class Plain:
    device, is_cuda = torch.device("cuda"), False
class Row(NamedTuple):
    device: torch.device
    is_cuda: bool
class Holder:
    def __init__(self):
        self.x = torch.ones(1)
    @property
    def is_cuda(self):
        return self.x.is_cuda
values = [Plain.is_cuda, Plain().is_cuda, Row(torch.device("cuda"), False).is_cuda, Holder().is_cuda]
"""
    )
    assert names["values"] == [False, False, False, True]


@pytest.mark.parametrize(
    "expression", ["x", "x.data", "torch.nn.Parameter(x)", "x.untyped_storage()", "x.storage()", "packed"]
)
def test_is_cuda_of_what_torch_keeps_on_the_device(expression: str) -> None:
    x = torch.ones(2, 2, 1)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 1]))
    assert value_of(f"({expression}).is_cuda", x=x, packed=packed) is True
    assert value_of(f"getattr({expression}, 'is_cuda', None)", x=x, packed=packed) is True


def test_a_missing_attribute_is_missing() -> None:
    for name in ("is_cuda", "type", "cuda"):
        assert value_of(f"getattr(3, '{name}', 5)") == 5
        with pytest.raises(AttributeError, match=name):
            value_of(f"(3).{name}")


@pytest.mark.parametrize("made", ["'cpu'", "'cpu', 0", "'cpu:0'", "type='cpu'", "torch.device('cpu')", "args.device"])
def test_the_cpu_that_was_asked_for_is_the_cpu(made: str) -> None:
    args = argparse.Namespace(device="cpu")
    names = run(f"device = torch.device({made})\nvalue = device.type, str(device)", args=args)
    assert names["value"] == ("cpu", "cpu")
    assert value_of("torch.ones(1).to(device).device == device", device=names["device"]) is True


@pytest.mark.parametrize("made", ["'cuda'", "'cuda:0'", "'cuda', 0", "0", "torch.device('cuda')", "x.device"])
def test_the_gpu_that_was_asked_for_is_the_gpu(made: str) -> None:
    names = run(f"device = torch.device({made})\nvalue = device.type, str(device)", x=torch.ones(1))
    assert names["value"] == ("cuda", "cuda:0")


def test_methods_of_a_programs_own_objects_get_what_was_given() -> None:
    names = run(
        """
class Batch:
    def to(self, value, number=0):
        return "to", value, number
    def cuda(self, value=None):
        return "cuda", value
    def record_stream(self, stream, value=None):
        return "record_stream", stream, value
    def pin_memory(self, value=None):
        return "pin_memory", value
batch = Batch()
values = [
    batch.to(value="cuda", number=1), batch.cuda(value=0), batch.record_stream(1, value=2), batch.pin_memory(value=3)
]
"""
    )
    assert names["values"] == [("to", "cuda", 1), ("cuda", 0), ("record_stream", 1, 2), ("pin_memory", 3)]


def test_a_tensor_of_a_programs_own_class_is_moved() -> None:
    names = run(
        """
class Image(torch.Tensor):
    pass
class Weight(torch.nn.Parameter):
    pass
values = [x.new_zeros(2, device="cuda").to("cuda:0") for x in (torch.ones(2).as_subclass(Image), Weight(torch.ones(2)))]
"""
    )
    assert [value.tolist() for value in names["values"]] == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "expression",
    [
        "move()",
        "getattr(x, 'cuda')('cuda:0')",
        "torch.Tensor.cuda(x, 0)",
        "list(map(torch.Tensor.cuda, [x]))[0]",
        "torch.Tensor.to(x, 'cuda')",
        "torch.Tensor.to(x, 0).clone()",
    ],
)
def test_a_method_that_is_not_called_where_it_is_named(expression: str) -> None:
    x = torch.ones(2)
    on_device = run(f"move = x.cuda\nvalue = {expression}", x=x)["value"]
    assert on_device.tolist() == [1, 1]


def test_cuda_of_the_class_of_a_module() -> None:
    layer = torch.nn.Linear(2, 2)
    for expression in ("torch.nn.Linear.cuda(layer)", "torch.nn.Module.to(layer, 'cuda')", "(layer.cuda)(0)"):
        assert value_of(expression, layer=layer) is layer


def test_a_programs_own_attribute_of_that_name() -> None:
    assert value_of("args.cuda", args=argparse.Namespace(cuda=True)) is True
    assert value_of("torch.version.cuda") == torch.version.cuda
    assert value_of("torch.backends.cuda.matmul") is torch.backends.cuda.matmul


def test_load_by_keyword(tmp_path: Any) -> None:
    torch.save(torch.ones(2), tmp_path / "x.pt")
    assert value_of("torch.load(f=path, map_location='cuda')", path=tmp_path / "x.pt").tolist() == [1, 1]
