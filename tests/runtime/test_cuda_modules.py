"""The modules and the rarer functions of torch.cuda answer on a CPU, or say that they cannot."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path

import pytest
import torch

from tests.support.rewritten import run, value_of


@pytest.mark.parametrize(
    "line",
    [
        "from torch.cuda.amp import GradScaler, autocast",
        "from torch.cuda.amp.grad_scaler import GradScaler\nfrom torch.cuda.amp.autocast_mode import autocast",
        "import torch.cuda.amp.grad_scaler as g, torch.cuda.amp.autocast_mode as a\nGradScaler = g.GradScaler\n"
        "autocast = a.autocast",
    ],
)
def test_mixed_precision_by_any_import(line: str) -> None:
    names = run(
        f"""
{line}
from torch.cuda.amp.common import amp_definitely_not_available
class Scaler(GradScaler):
    pass
scalers = [GradScaler(init_scale=2.0), Scaler(2.0)]
scaled = [scaler.scale(torch.ones(1, device="cuda")).item() for scaler in scalers]
instances = [isinstance(scaler, torch.cuda.amp.GradScaler) for scaler in scalers]
with autocast():
    dtype = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
missing = amp_definitely_not_available()
"""
    )
    assert (names["scaled"], names["instances"], names["missing"]) == ([2, 2], [True, True], False)
    assert names["dtype"] == torch.float16


def test_custom_functions_of_mixed_precision() -> None:
    names = run(
        """
class Double(torch.autograd.Function):
    @staticmethod
    @torch.cuda.amp.custom_fwd(cast_inputs=torch.float32)
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    @torch.cuda.amp.custom_bwd
    def backward(ctx, gradient):
        return 2 * gradient
x = torch.ones(2, requires_grad=True)
Double.apply(x).sum().backward()
"""
    )
    assert names["x"].grad.tolist() == [2, 2]


def test_the_default_generator() -> None:
    names = run("torch.cuda.default_generators[0].manual_seed(3)\nseed = torch.cuda.initial_seed()")
    assert names["seed"] == 3
    assert value_of("len(torch.cuda.default_generators) == torch.cuda.device_count()") is True


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("torch.cuda.nccl.version()", (0, 0, 0)),
        ("torch.cuda.nccl.version() >= (2, 10)", False),
        ("torch.cuda.nccl.is_available([])", False),
        ("torch.cuda.get_sync_debug_mode()", 0),
        ("torch.cuda.set_sync_debug_mode('warn')", None),
        ("torch.cuda.get_allocator_backend()", "native"),
        ("torch.cuda.memory.get_allocator_backend()", "native"),
        ("torch.cuda._sleep(1000)", None),
        ("torch.cuda.memory._record_memory_history(max_entries=10)", None),
        ("torch.cuda.memory._record_memory_history(enabled=None)", None),
        ("torch.cuda.memory._snapshot()", {"segments": [], "device_traces": []}),
        ("torch.cuda.tunable.is_enabled()", False),
        ("torch.cuda.tunable.enable(True)", None),
        ("torch.cuda.tunable.tuning_is_enabled()", False),
        ("torch.cuda.check_error(torch.cuda.cudart().cudaProfilerStart())", None),
        ("torch.cuda.cudart().cudaProfilerStop() == torch.cuda.cudart().cudaError.success", True),
        ("torch.cuda.get_device_properties(0).warp_size", 1),
        ("torch.cuda.get_device_properties(0).name", "CPU"),
        ("hasattr(torch.cuda.get_device_properties(0), 'shared_memory_per_block')", False),
    ],
)
def test_what_a_cpu_can_answer(expression: str, answer: object) -> None:
    assert value_of(expression) == answer


def test_the_machine_has_one_identity() -> None:
    first, second = (value_of("torch.cuda.get_device_properties(0).uuid") for _ in range(2))
    assert isinstance(first, uuid.UUID) and first == second


def test_a_snapshot_of_memory_is_written(tmp_path: Path) -> None:
    value_of("torch.cuda.memory._dump_snapshot(path)", path=str(tmp_path / "snapshot.pickle"))
    assert pickle.loads((tmp_path / "snapshot.pickle").read_bytes())["segments"] == []


@pytest.mark.parametrize(
    "name",
    [
        "current_blas_handle",
        "utilization",
        "nccl.all_reduce",
        "tunable.get_results",
        "cudart().cudaStreamCreate",
    ],
)
def test_what_it_cannot_is_named(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"needs a GPU, and there is none here: leave the call out where") as error:
        value_of(f"torch.cuda.{name}()")
    assert str(error.value).startswith(f"torch.cuda.{name} ")


def test_a_name_that_torch_does_not_have_either() -> None:
    for name in ("torch.cuda.absent", "torch.cuda.nccl.absent", "torch.cuda.tunable.absent", "torch.cuda.amp.absent"):
        with pytest.raises(AttributeError, match="absent"):
            value_of(name)
