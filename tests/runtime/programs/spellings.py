import dataclasses
import json
import os
import typing

import bmtrain as bmt
import torch
from never_names_it import moved, ones
from torch.cuda import nvtx
from torch.cuda.amp import GradScaler, autocast
from uses_bmtrain.layers import Scale
from uses_bmtrain.parts.helper import positions

from tests.support.checks import run_checks

# no `from __future__ import annotations` here: the annotations below are evaluated, as the author's Python does it


@dataclasses.dataclass
class Options:
    size: int = 3
    device: str = "cuda"


def check_annotations_are_values() -> None:
    assert [field.type for field in dataclasses.fields(Options)] == [int, str]
    assert typing.get_type_hints(check_annotations_are_values) == {"return": type(None)}
    assert check_annotations_are_values.__annotations__ == {"return": None}


def check_a_library_in_another_folder() -> None:
    scale = Scale()
    bmt.init_parameters(scale)
    assert scale(torch.ones(2).cuda()).shape == (2,)
    assert positions(3).is_cuda


def check_a_library_that_was_named() -> None:
    assert ones().is_cuda
    assert moved(torch.ones(1)).tolist() == [1]


def check_devices_by_number() -> None:
    rank = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else 0
    x = torch.ones(2).to(rank)
    assert x.is_cuda
    assert x.new_zeros(2, device=rank).is_cuda
    assert torch.zeros(2, device=torch.cuda.current_device()).is_cuda
    assert torch.zeros(2).to(torch.device(rank)).is_cuda
    assert torch.zeros(2).to(device=rank, dtype=torch.half).dtype == torch.half
    assert torch.zeros(2, device=torch.device("cuda", rank)).cuda(rank).is_cuda
    assert torch.nn.Linear(2, 2, device=rank).to(rank).weight.is_cuda
    assert torch.zeros(2, device=x.get_device()).device == x.device
    assert torch.cuda.current_device() == rank


def check_a_devices_name_stays_text() -> None:
    sizes = {"cuda": 1, "cuda:0": 2, "cpu": 3}
    assert sizes["cuda"] == sizes.get("cuda") == 1
    assert [len(name) for name in sizes] == [4, 6, 3]
    assert json.loads(json.dumps(dataclasses.asdict(Options())))["device"].upper() == "CUDA"
    options = Options()
    assert len(options.device) == 4
    assert torch.ones(options.size, device=options.device).is_cuda
    assert torch.ones(2).to(options.device).device.type == "cuda"
    assert str(torch.ones(2).to(f"cuda:{bmt.rank()}").device).startswith("cuda")


def check_the_device_is_described() -> None:
    properties = torch.cuda.get_device_properties(0)
    free, whole = torch.cuda.mem_get_info()
    assert 0 < free <= whole == properties.total_memory
    assert properties.name == torch.cuda.get_device_name(torch.device("cuda"))
    assert torch.cuda.get_device_capability() == (properties.major, properties.minor)
    torch.cuda.init()
    assert torch.cuda.is_initialized()
    assert torch.cuda.is_bf16_supported()
    assert not torch.cuda.is_current_stream_capturing()


def check_memory_statistics() -> None:
    torch.cuda.reset_max_memory_allocated()
    torch.cuda.reset_peak_memory_stats(0)
    torch.cuda.ipc_collect()
    torch.cuda.empty_cache()
    assert 0 < torch.cuda.memory_allocated(0) <= torch.cuda.max_memory_allocated()
    assert torch.cuda.memory_stats()["allocated_bytes.all.peak"] > torch.cuda.memory_stats()["num_ooms"] == 0
    assert "resident" in torch.cuda.memory_summary()


def check_streams_and_ranges() -> None:
    stream = torch.cuda.Stream()
    torch.cuda.set_stream(stream)
    with torch.cuda.device(0), nvtx.range("step"), torch.cuda.stream(stream):
        torch.cuda.nvtx.range_push("inner")
        torch.ones(2, device="cuda").record_stream(torch.cuda.current_stream())
        torch.cuda.nvtx.range_pop()


def check_seeds() -> None:
    torch.cuda.manual_seed_all(5)
    assert torch.cuda.initial_seed() == 5
    states = torch.cuda.get_rng_state_all()
    drawn = torch.rand(2, device="cuda")
    torch.cuda.set_rng_state_all(states)
    assert torch.equal(torch.rand(2, device="cuda"), drawn)
    torch.cuda.seed_all()
    assert torch.cuda.initial_seed() != 5


def check_types() -> None:
    names = ["Bool", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double", "Byte"]
    for name in names:
        made = getattr(torch.cuda, f"{name}Tensor")(2)
        assert made.is_cuda
        assert made.type() == f"torch.{name}Tensor"
    assert torch.ones(2).half().type("torch.cuda.FloatTensor").dtype == torch.float32
    assert torch.ones(2).type() == "torch.cuda.FloatTensor"


def check_mixed_precision() -> None:
    layer, x = torch.nn.Linear(4, 4).cuda(), torch.ones(2, 4).cuda()
    for context in (autocast(), torch.autocast("cuda", torch.float16), torch.amp.autocast("cuda", torch.float16)):
        with context:
            assert layer(x).dtype == torch.float16
    scaler = GradScaler(init_scale=2.0)
    assert scaler.scale(layer(x).sum()).item() == 2 * layer(x).sum().item()


if __name__ == "__main__":
    bmt.init_distributed(seed=1)
    run_checks(globals())
