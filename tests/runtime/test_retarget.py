"""CUDA names in a user's program mean the CPU where there is no GPU, and nothing else changes."""

from __future__ import annotations

import argparse
import json
from typing import NamedTuple

import pytest
import torch

from fm9g.runtime.cpu import Event, Stream
from tests.support.rewritten import run, value_of


@pytest.mark.parametrize(
    "device_name",
    ["'cuda'", "'cuda:0'", "f'cuda:{rank}'", "'cuda:' + str(rank)", "'cuda:%d' % rank", "'cuda:{}'.format(rank)"],
)
@pytest.mark.parametrize(
    "expression", ["torch.ones(2, device={})", "torch.ones(2).to({})", "torch.ones(2).to(torch.device({}))"]
)
def test_a_device_by_name(expression: str, device_name: str) -> None:
    assert value_of(expression.format(device_name), rank=1).device == torch.device("cpu")


def test_a_device_by_name_and_number() -> None:
    assert value_of("torch.ones(2, device=torch.device('cuda', 1))").device == torch.device("cpu")


@pytest.mark.parametrize("text", ["'cuda is fast'", "'cudaMalloc'", "'no cuda'", "f'on cuda:{1}'", "'cuda:x'"])
def test_other_strings_stay(text: str) -> None:
    assert value_of(text) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "{'cuda': 1}['cuda']",
        "{'cuda': 1}.get('cuda')",
        "dict(device='cuda')['device']",
        "json.loads('{\"device\": \"cuda\"}')['device'] == 'cuda'",
        "json.loads('{\"cuda\": 1}').get('cuda')",
        "'cuda:0'.split(':')",
        "[name == 'cuda' for name in ('cuda', 'cpu')]",
        "json.dumps({'device': 'cuda', 'cuda': ['cuda:1']})",
        "f'cuda:{1}'",
    ],
)
def test_a_name_that_is_no_device_stays(text: str) -> None:
    """Keys, fields and what is compared: the program's own strings."""
    assert value_of(text, json=json) == eval(text, {"json": json})


def test_choices_of_a_command_line() -> None:
    names = run(
        """
parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu", choices=["cuda", "cpu"])
args = parser.parse_args(["--device", "cuda"])
chosen = "gpu" if args.device == "cuda" else "cpu"
x = torch.ones(2, device=args.device)
""",
        argparse=argparse,
    )
    assert (names["chosen"], names["x"].device.type) == ("gpu", "cpu")


@pytest.mark.parametrize(
    "given", ["'cuda'", "'cuda:1'", "1", "torch.device('cuda')", "torch.device(1)", "'cpu'", "None"]
)
@pytest.mark.parametrize(
    "expression",
    [
        "torch.ones(2, device=place)",
        "torch.ones(2, **{'device': place})",
        "torch.ones(2).new_zeros(2, device=place)",
        "functools.partial(torch.ones, device=place)(2)",
        "torch.ones(2).to(device=place)",
        "make()(2, device=place)",
        "torch.nn.Linear(2, 2, device=place).weight",
        "torch.load(saved(), map_location=place)",
        "T.ones(2, device=place)",
        "Layer(place).weight",
        "Plain(2, 2, device=place).weight",
    ],
)
def test_a_device_reaches_torch_from_a_variable(expression: str, given: str) -> None:
    program = f"""
import functools, io
import torch as T

def make():
    return torch.ones

def saved():
    file = io.BytesIO()
    torch.save(torch.ones(2), file)
    file.seek(0)
    return file

class Plain(torch.nn.Linear):
    pass

class Layer(torch.nn.Linear):
    def __init__(self, device):
        super().__init__(2, 2, device=device)

place = {given}
value = {expression}
"""
    assert run(program)["value"].device == torch.device("cpu")


def test_a_function_of_the_program_gets_what_was_given() -> None:
    names = run(
        """
class Settings(NamedTuple):
    device: str
def given(device, *others, **named):
    return device, others, named
value = given("cuda", 0, place="cuda:1"), given(device=0), given(**{"device": "cuda"}), Settings(device="cuda")
""",
        NamedTuple=NamedTuple,
    )
    assert names["value"] == (("cuda", (0,), {"place": "cuda:1"}), (0, (), {}), ("cuda", (), {}), ("cuda",))


def test_a_method_of_the_program_moves_what_it_holds() -> None:
    names = run(
        """
class Batch:
    def __init__(self):
        self.x, self.moves = torch.zeros(2), []
    def cuda(self, *args):
        self.moves.append(args)
        return self
    def to(self, device):
        self.moves.append(device)
        return self
class Layer(torch.nn.Linear):
    def cuda(self, device=None):
        return super().cuda(device)
moves = Batch().cuda(1).to("cuda").moves
layer = Layer(2, 2)
same = layer.cuda() is layer
"""
    )
    assert names["moves"] == [(1,), "cuda"]
    assert names["same"] is True


def test_the_device_of_a_tensor_has_the_programs_name() -> None:
    assert value_of("torch.ones(1).device.type") == "cuda"
    assert value_of("str(torch.ones(1).device)") == "cuda:0"
    assert value_of("'cuda' in str(torch.ones(1).device)") is True
    assert value_of("torch.ones(1).to(torch.ones(1).device.type).is_cuda") is True
    assert value_of("torch.ones(2).type()") == "torch.FloatTensor"


def test_annotations_are_the_programs_own_affair() -> None:
    """This file's `from __future__ import annotations` does not reach it; its own does."""
    assert run("def f(x: 1 + 1): ...\nvalue = f.__annotations__")["value"] == {"x": 2}
    stated = "from __future__ import annotations\ndef f(x: 1 + 1): ...\nvalue = f.__annotations__"
    assert run(stated)["value"] == {"x": "1 + 1"}


def test_what_a_module_begins_with_stays_first() -> None:
    names = run('"""A docstring."""\nfrom __future__ import annotations\n\nvalue: torch.cuda.Stream = __doc__')
    assert names["value"] == names["__doc__"] == "A docstring."


@pytest.mark.parametrize("names", ["type", "is_cuda", "cuda"])
def test_patterns_compare_with_attributes(names: str) -> None:
    program = """
class Kind:
    NAME = "gpu"
    inner = {"gpu": 1}

def of(value):
    match value:
        case Kind.NAME:
            return "the kind"
        case {Kind.NAME: found} | [Kind.NAME, found]:
            return found
        case torch.cuda.Event(NAME=found) if Kind.NAME == "gpu":
            return found
        case "torch.cuda.FloatTensor":
            return "a type"

event = torch.cuda.Event()
event.NAME = 4
values = [of(value) for value in ("gpu", {"gpu": 2}, ["gpu", 3], event, torch.ones(1).type(), "other")]
"""
    assert run(program.replace("NAME", names))["values"] == ["the kind", 2, 3, 4, "a type", None]


@pytest.mark.parametrize("name", ["type", "is_cuda", "cuda"])
def test_attributes_of_these_names_can_be_set(name: str) -> None:
    program = """
import contextlib
class Box:
    NAME: int = 1
box = Box()
box.NAME = 2
box.NAME += 1
box.NAME, _ = box.NAME + 1, 0
box.NAME: int = box.NAME + 1
for box.NAME in [box.NAME + 1]:
    pass
with contextlib.nullcontext(box.NAME + 1) as box.NAME:
    value = f"{box.NAME:>{box.NAME - 5}} {f'{box.NAME=}'} {(seen := box.NAME)}"
del box.NAME
left = [box.NAME, Box.NAME, dict(NAME=box.NAME)["NAME"], getattr(box, "NAME"), getattr(box, "NAME", 3)]
"""
    names = run(program.replace("NAME", name))
    assert names["value"] == f" 7 box.{name}=7 7"
    assert names["left"] == [1] * 5


def test_torch_cuda_itself_can_be_replaced_and_added_to() -> None:
    names = run(
        """
class Fake:
    pass
real, fake = torch, Fake()
torch = fake
torch.cuda = 1
torch.random = Fake()
torch.random.fork_rng = 2
replaced = vars(fake)["cuda"], vars(vars(fake)["random"])["fork_rng"]
del torch.cuda
torch = real
torch.cuda.of_the_program = 3
added = torch.cuda.of_the_program
del torch.cuda.of_the_program
"""
    )
    assert (names["replaced"], names["added"]) == ((1, 2), 3)


def test_pin_memory_of_a_function_of_the_program_stays() -> None:
    names = run("def loader(*, pin_memory):\n    return pin_memory\nvalue = loader(pin_memory=True)")
    assert names["value"] is True
    assert value_of("torch.utils.data.DataLoader([1], pin_memory=True).pin_memory") is False


def test_cuda_makes_a_copy() -> None:
    host = torch.zeros(3)
    on_device = value_of("host.cuda()", host=host)
    on_device += 1
    assert host.tolist() == [0, 0, 0]


def test_cuda_keeps_the_gradient_path() -> None:
    host = torch.ones(3, requires_grad=True)
    value_of("host.cuda(0, non_blocking=True).sum()", host=host).backward()
    assert host.grad is not None
    assert host.grad.tolist() == [1, 1, 1]


def test_cuda_of_a_module_is_the_module() -> None:
    module = torch.nn.Linear(2, 2)
    assert value_of("module.cuda()", module=module) is module


def test_is_cuda_holds_for_what_is_on_the_device() -> None:
    assert value_of("torch.ones(1).is_cuda") is True
    assert value_of("torch.ones(1, device='meta').is_cuda") is False


def test_pinned_memory() -> None:
    assert value_of("torch.ones(2, pin_memory=True)").tolist() == [1, 1]
    host = torch.zeros(2)
    pinned = value_of("host.pin_memory()", host=host)
    pinned += 1
    assert host.tolist() == [0, 0]


def test_streams_and_events() -> None:
    names = run(
        """
stream, event = torch.cuda.Stream(priority=-1), torch.cuda.Event(enable_timing=True)
with torch.cuda.stream(stream):
    x = torch.ones(2, device="cuda")
    x.record_stream(torch.cuda.current_stream())
    event.record(stream)
stream.wait_event(event)
torch.cuda.current_stream().wait_stream(stream)
torch.cuda.synchronize()
later = stream.record_event()
elapsed = event.elapsed_time(later)
"""
    )
    assert isinstance(names["stream"], Stream)
    assert isinstance(names["event"], Event)
    assert names["event"].query()
    assert names["elapsed"] >= 0


@pytest.mark.parametrize(
    ("name", "dtype"), [("FloatTensor", torch.float32), ("HalfTensor", torch.float16), ("LongTensor", torch.int64)]
)
def test_tensor_types_of_torch_cuda(name: str, dtype: torch.dtype) -> None:
    value = value_of(f"torch.cuda.{name}([1, 2])")
    assert (value.dtype, value.device.type, value.tolist()) == (dtype, "cpu", [1, 2])


def test_the_device_is_there_and_its_memory_is_known() -> None:
    assert value_of("torch.cuda.is_available()") is True
    assert value_of("torch.cuda.device_count()") == 1
    assert value_of("torch.cuda.max_memory_allocated()") >= value_of("torch.cuda.memory_allocated()") > 1 << 20


@pytest.mark.parametrize(
    "program",
    [
        "from torch.cuda import Stream",
        "from torch.cuda import Stream as Queue; Stream = Queue",
        "from torch import cuda; Stream = cuda.Stream",
        "from torch import nn, cuda as gpu; Stream = gpu.Stream; nn.Linear",
        "import torch.cuda as gpu; Stream = gpu.Stream",
        "import os, torch.cuda as gpu; Stream = gpu.Stream; os.name",
        "import torch.cuda; Stream = torch.cuda.Stream",
        "import torch as T; Stream = T.cuda.Stream",
        "import torch.cuda.streams as streams; Stream = streams.Stream",
        "t = torch; Stream = t.cuda.Stream",
        "t = torch; tc = t.cuda; Stream = tc.Stream",
        "class Holder: t = torch\nStream = Holder().t.cuda.Stream",
        "Stream = getattr(torch, 'cuda').Stream",
        "Stream = getattr(torch, 'cuda', None).Stream",
        "from torch.cuda.streams import Stream",
    ],
)
def test_imports_of_torch_cuda(program: str) -> None:
    assert run(program)["Stream"] is Stream


def test_random_numbers_fork_and_repeat() -> None:
    names = run(
        """
torch.cuda.manual_seed_all(7)
state = torch.cuda.get_rng_state()
with torch.random.fork_rng(devices=[torch.cuda.current_device()], enabled=True):
    torch.cuda.set_rng_state(state)
    inside = torch.rand(3, device="cuda")
after = torch.rand(3, device="cuda")
"""
    )
    assert torch.equal(names["inside"], names["after"])
