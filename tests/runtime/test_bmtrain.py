"""BMTrain 1.0.1 itself on the backend at hand: programs with CUDA names, run by `-m fm9g.runtime`.

They cover what BMTrain's own test programs do, each check by name: see programs/.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.runtime import bmt
from tests.support.ranks import Finished, assert_passed, names_of_checks, run_ranks

PROGRAMS = Path(__file__).parent / "programs"


def run_program(name: str, ranks: int, folder: Path) -> Finished:
    return run_ranks(PROGRAMS / f"{name}.py", ranks, folder, args=[folder], module="fm9g.runtime")


@pytest.fixture(scope="module", params=[1, 2, 4], ids="{} ranks".format)
def blocks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_program("blocks", request.param, tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_program("parallel", 2, tmp_path_factory.mktemp("parallel"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_program("pipeline", 2, tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_program("training", 2, tmp_path_factory.mktemp("training"))


@pytest.mark.parametrize("check", names_of_checks(PROGRAMS / "blocks.py"))
def test_blocks(check: str, blocks: Finished) -> None:
    assert_passed(blocks, check)


@pytest.mark.parametrize("check", names_of_checks(PROGRAMS / "parallel.py"))
def test_tensor_parallel(check: str, parallel: Finished) -> None:
    assert_passed(parallel, check)


@pytest.mark.parametrize("check", names_of_checks(PROGRAMS / "pipeline.py"))
def test_pipeline(check: str, pipeline: Finished) -> None:
    assert_passed(pipeline, check)


@pytest.mark.parametrize("check", names_of_checks(PROGRAMS / "training.py"))
def test_training(check: str, training: Finished) -> None:
    assert_passed(training, check)


def test_programs_end_without_an_error(
    blocks: Finished, parallel: Finished, pipeline: Finished, training: Finished
) -> None:
    for result in (blocks, parallel, pipeline, training):
        assert result.returncode == 0, result.output


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fused_cross_entropy(dtype: torch.dtype, reduction: str, weighted: bool) -> None:
    """As torch's in float32 on the same numbers, but that softmax and gradient are each rounded to the half type."""
    torch.manual_seed(0)
    rows, classes = 64, 37
    logits = (4 * torch.randn(rows, classes)).to(dtype)
    targets = torch.randint(0, classes, (rows,))
    targets[::5] = -100
    weight = torch.rand(classes).to(dtype) if weighted else None
    loss, gradient = loss_and_gradient(bmt.loss.FusedCrossEntropy(weight, reduction=reduction), logits, targets)
    reference = torch.nn.CrossEntropyLoss(weight.float() if weighted else None, reduction=reduction)
    expected, expected_gradient = loss_and_gradient(reference, logits.float(), targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=epsilon, atol=epsilon)
    assert gradient[::5].abs().sum() == 0


def loss_and_gradient(criterion: torch.nn.Module, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = criterion(leaf, targets)
    loss.sum().backward()
    return loss.detach(), leaf.grad


def test_fused_cross_entropy_of_extreme_logits() -> None:
    """Masked classes and a dominating one: finite, as in float32."""
    logits = torch.tensor([[60000.0, -60000.0, float("-inf")], [float("-inf"), 1.0, 1.0]], dtype=torch.float16)
    targets = torch.tensor([0, 2])
    loss, gradient = loss_and_gradient(bmt.loss.FusedCrossEntropy(reduction="none"), logits, targets)
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), targets, reduction="none"))
    torch.testing.assert_close(gradient.float(), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, -0.5]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("value", "found"), [(1.0, 0), (float("inf"), 1), (float("-inf"), 1), (float("nan"), 1)])
def test_has_inf_nan(dtype: torch.dtype, value: float, found: int) -> None:
    """One bad element anywhere is found, and a later good gradient does not wipe the finding out."""
    from bmtrain.loss._function import has_inf_nan

    for length, position in ((1, 0), (4097, 0), (4097, 2048), (4097, 4096)):
        gradient = torch.ones(length, dtype=dtype)
        gradient[position] = value
        flag = torch.zeros(1, dtype=torch.uint8)[0]
        has_inf_nan(gradient, flag)
        has_inf_nan(torch.ones(8, dtype=dtype), flag)
        has_inf_nan(torch.ones(0, dtype=dtype), flag)
        assert flag.item() == found


class Malicious:
    """Unpickling it creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_load_refuses_a_file_that_would_run_code(single_rank: None, tmp_path: Path) -> None:
    model = bmt.nn.Linear(2, 2)
    proof = tmp_path / "executed"
    torch.save({"weight": Malicious(proof)}, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError):
        bmt.load(model, str(tmp_path / "model.pt"))
    assert not proof.exists()
