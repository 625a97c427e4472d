"""Which backend is chosen on which machine."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fm9g.errors import UserError
from fm9g.runtime.backend import choose

EXTENSION = ModuleType("bmtrain.C")


def loads(folder: Path) -> ModuleType:
    return EXTENSION


def is_missing(folder: Path) -> ModuleType:
    raise ImportError("no extension for Python 3.13 in /somewhere")


def works(extension: ModuleType) -> None:
    assert extension is EXTENSION


def is_built_for_other_gpus(extension: ModuleType) -> None:
    raise RuntimeError("no kernel image is available for execution on the device")


def is_unexpected(*args: object) -> Any:
    raise AssertionError("the extension must not be touched")


@pytest.fixture(autouse=True)
def unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FM9G_BACKEND", raising=False)
    monkeypatch.setitem(sys.modules, "bmtrain.C", ModuleType("what was there before"))  # and put back afterwards


def test_no_gpu_means_cpu() -> None:
    backend = choose(cuda_available=False, load=is_unexpected, probe=is_unexpected)
    assert (backend.name, backend.reason, backend.on_cuda) == ("cpu", "no CUDA GPU", False)


def test_a_gpu_and_a_working_extension_mean_native() -> None:
    backend = choose(cuda_available=True, load=loads, probe=works)
    assert (backend.name, backend.on_cuda) == ("native", True)
    assert sys.modules["bmtrain.C"] is EXTENSION


@pytest.mark.parametrize(
    ("load", "probe", "reason"),
    [
        (is_missing, works, "no extension for Python 3.13"),
        (loads, is_built_for_other_gpus, "no kernel image is available"),
    ],
)
def test_a_broken_extension_means_portable_and_says_why(load: object, probe: object, reason: str) -> None:
    backend = choose(cuda_available=True, load=load, probe=probe)  # type: ignore[arg-type]
    assert (backend.name, backend.on_cuda) == ("portable", True)
    assert reason in backend.reason
    assert sys.modules["bmtrain.C"] is not EXTENSION


def test_an_extension_of_another_torch_means_portable() -> None:
    def has_an_undefined_symbol(folder: Path) -> ModuleType:
        raise OSError("undefined symbol: _ZN3c10")

    assert choose(cuda_available=True, load=has_an_undefined_symbol, probe=works).name == "portable"


def test_forcing_portable_leaves_the_extension_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM9G_BACKEND", "portable")
    backend = choose(cuda_available=True, load=is_unexpected, probe=is_unexpected)
    assert (backend.name, backend.reason) == ("portable", "FM9G_BACKEND")


def test_forcing_cpu_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM9G_BACKEND", "cpu")
    assert choose(cuda_available=True, load=is_unexpected, probe=is_unexpected).name == "cpu"


def test_forcing_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM9G_BACKEND", "native")
    backend = choose(cuda_available=True, load=loads, probe=works)
    assert (backend.name, backend.reason) == ("native", "FM9G_BACKEND")


@pytest.mark.parametrize("forced", ["native", "portable"])
def test_forcing_a_gpu_backend_without_a_gpu_is_an_error(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM9G_BACKEND", forced)
    with pytest.raises(UserError, match=f"FM9G_BACKEND={forced} needs a CUDA GPU"):
        choose(cuda_available=False, load=is_unexpected, probe=is_unexpected)


def test_forcing_native_with_a_broken_extension_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM9G_BACKEND", "native")
    with pytest.raises(UserError, match="does not work here: no kernel image"):
        choose(cuda_available=True, load=loads, probe=is_built_for_other_gpus)


def test_an_unknown_name_suggests_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM9G_BACKEND", "portible")
    with pytest.raises(UserError, match=r"native, portable, cpu \(did you mean 'portable'\?\)"):
        choose(cuda_available=False)
