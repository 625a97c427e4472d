"""Which modules are rewritten for the CPU, wherever they lie, and what the others say when they ask for a GPU."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import runpy
import sys
import zipfile
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fm9g.runtime.devices import DEVICE_NAME
from fm9g.runtime.imports import VARIABLE, retarget_program, uses_bmtrain

ON_CUDA = "import torch\n\ndef make():\n    return torch.ones(2, device='cuda')\n"
USES_BMTRAIN = "def later():\n    from bmtrain import nn\n    return nn\n"


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import modules by name as a program in tmp_path/program would, from tmp_path/libraries besides."""
    libraries = tmp_path / "libraries"
    libraries.mkdir(exist_ok=True)
    (tmp_path / "program").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "program"), *sys.path, str(libraries)])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(torch.cuda, "_lazy_init", torch.cuda._lazy_init)
    monkeypatch.setattr(SourceFileLoader, "get_code", SourceFileLoader.get_code)
    monkeypatch.setattr(runpy, "compile", compile, raising=False)
    before = set(sys.modules)
    uses_bmtrain.cache_clear()

    def import_modules(*names: str) -> Any:
        retarget_program(tmp_path / "program")
        return [importlib.import_module(name) for name in names][-1] if names else None

    yield import_modules
    uses_bmtrain.cache_clear()
    for name in set(sys.modules) - before:
        del sys.modules[name]


def package(folder: Path, name: str, **modules: str) -> Path:
    """A package with these modules besides an empty __init__."""
    place = folder / name
    place.mkdir(parents=True)
    for module, text in {"__init__": "", **modules}.items():
        (place / f"{module}.py").write_text(text, encoding="utf-8")
    return place


def assert_on_cpu(module: Any) -> None:
    assert module.make().device.type == "cpu"


def test_every_module_of_a_package_that_imports_bmtrain(tmp_path: Path, imported: Any) -> None:
    package(tmp_path / "libraries", "lib_plain", first=ON_CUDA, last=USES_BMTRAIN)
    assert_on_cpu(imported("lib_plain.first"))


@pytest.mark.parametrize(
    "line", ["import bmtrain as bmt", "import os, bmtrain", "    from bmtrain.nn import Linear", "import bmtrain.nn"]
)
def test_an_import_of_bmtrain_is_seen(line: str, tmp_path: Path, imported: Any) -> None:
    (tmp_path / "libraries" / "lib_line.py").write_text(f"{ON_CUDA}if 0:\n    pass\n{line.strip()}\n", encoding="utf-8")
    assert_on_cpu(imported("lib_line"))


@pytest.mark.parametrize("line", ["# import bmtrain", "NAME = 'bmtrain'", "import bmtrainer_x", "import os  # bmtrain"])
def test_another_mention_is_none(line: str, tmp_path: Path, imported: Any) -> None:
    (tmp_path / "libraries" / "lib_mention.py").write_text(f"{line}\n", encoding="utf-8")
    imported()
    assert not uses_bmtrain("lib_mention")


def test_a_link_to_nothing_is_passed_over(tmp_path: Path, imported: Any) -> None:
    place = package(tmp_path / "libraries", "lib_locked", first=ON_CUDA, last=USES_BMTRAIN)
    (place / ".#first.py").symlink_to("me@here.123")  # an editor's lock
    assert_on_cpu(imported("lib_locked.first"))


def test_a_package_that_is_a_link(tmp_path: Path, imported: Any) -> None:
    place = package(tmp_path / "elsewhere", "lib_linked", layers=ON_CUDA)
    (tmp_path / "program" / "lib_linked").symlink_to(place)
    assert_on_cpu(imported("lib_linked.layers"))


def test_a_namespace_package(tmp_path: Path, imported: Any) -> None:
    place = package(tmp_path / "libraries", "lib_space", layers=ON_CUDA, last=USES_BMTRAIN)
    (place / "__init__.py").unlink()
    assert_on_cpu(imported("lib_space.layers"))


def test_an_editable_installation_that_has_a_finder(tmp_path: Path, imported: Any) -> None:
    place = package(tmp_path / "sources", "lib_editable", layers=ON_CUDA, last=USES_BMTRAIN)

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            folders = [str(place)]
            if name != "lib_editable":
                return None
            return importlib.util.spec_from_file_location(
                name, place / "__init__.py", submodule_search_locations=folders
            )

    sys.meta_path.append(Finder())
    assert_on_cpu(imported("lib_editable.layers"))


def test_a_zip_file_that_was_named(tmp_path: Path, imported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "libraries.zip", "w") as archive:
        archive.writestr("lib_zip/__init__.py", "")
        archive.writestr("lib_zip/layers.py", ON_CUDA)
    sys.path.append(str(tmp_path / "libraries.zip"))
    monkeypatch.setenv(VARIABLE, "lib_zip")
    assert_on_cpu(imported("lib_zip.layers"))


def test_a_module_that_was_named_alone(tmp_path: Path, imported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "libraries", "lib_named", first=ON_CUDA, second=ON_CUDA)
    monkeypatch.setenv(VARIABLE, "other, lib_named.first")
    assert_on_cpu(imported("lib_named.first"))
    assert DEVICE_NAME not in vars(imported("lib_named.second"))


def no_gpu() -> None:
    raise AssertionError("there is no GPU")


def test_a_module_that_is_not_rewritten_says_how_to_name_it(
    tmp_path: Path, imported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "libraries", "lib_other", layers=ON_CUDA)
    monkeypatch.setenv(VARIABLE, "mine")
    monkeypatch.setattr(torch.cuda, "_lazy_init", no_gpu)  # on a machine that has one, too
    with pytest.raises((AssertionError, RuntimeError)) as error:
        imported("lib_other.layers").make()
    place = f"{tmp_path / 'libraries' / 'lib_other' / 'layers.py'}, line 4"
    assert f"the module lib_other.layers ({place}), which asks for one, is not rewritten" in str(error.value)
    assert str(error.value).endswith("set FM9G_RETARGET=mine,lib_other")


def loaded_from(path: Path, loader: SourceFileLoader | None = None) -> Any:
    """The module `by_path` as programs load one from a file."""
    spec = importlib.util.spec_from_file_location("by_path", path, loader=loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ran(path: str | Path) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(path)))


def test_files_of_the_program_that_are_loaded_by_path(tmp_path: Path, imported: Any) -> None:
    file = package(tmp_path / "program", "parts", layers=ON_CUDA) / "layers.py"
    imported()
    assert_on_cpu(loaded_from(file))
    assert_on_cpu(loaded_from(file))  # and no bytecode was left of the one or the other
    assert_on_cpu(loaded_from(file, SourceFileLoader("by_path", str(file))))


def test_files_of_the_program_that_runpy_runs(tmp_path: Path, imported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package(tmp_path / "program", "lib_run", layers=ON_CUDA) / "layers.py"
    imported()
    assert_on_cpu(ran(file))
    assert_on_cpu(SimpleNamespace(**runpy.run_module("lib_run.layers")))
    monkeypatch.chdir(file.parent)
    assert_on_cpu(ran("layers.py"))


def test_files_elsewhere_that_are_loaded_by_path_stay(tmp_path: Path, imported: Any) -> None:
    file = package(tmp_path / "libraries", "lib_path", layers=ON_CUDA) / "layers.py"
    imported()
    assert DEVICE_NAME not in vars(loaded_from(file))
    assert DEVICE_NAME not in vars(ran(file))


@pytest.mark.parametrize("named", ["", "mine"])
def test_a_file_elsewhere_that_is_loaded_by_path_can_be_named(
    named: str, tmp_path: Path, imported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package(tmp_path / "libraries", "lib_path", layers=ON_CUDA) / "layers.py"
    monkeypatch.setenv(VARIABLE, named)
    monkeypatch.setattr(torch.cuda, "_lazy_init", no_gpu)
    imported()
    with pytest.raises((AssertionError, RuntimeError)) as error:
        loaded_from(file).make()
    advised = str(error.value).rpartition(f"set {VARIABLE}=")[2]
    assert advised == ("mine,by_path" if named else "by_path")
    monkeypatch.setenv(VARIABLE, advised)
    imported()
    assert_on_cpu(loaded_from(file))


def test_what_runpy_runs_elsewhere_has_no_name_to_set(
    tmp_path: Path, imported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package(tmp_path / "libraries", "lib_path", layers=ON_CUDA) / "layers.py"
    monkeypatch.setattr(torch.cuda, "_lazy_init", no_gpu)
    imported()
    with pytest.raises((AssertionError, RuntimeError)) as error:
        ran(file).make()
    says = "is not rewritten for the CPU: import it from a .py file, below the program's folder or named in"
    assert f"{says} {VARIABLE}" in str(error.value)


def test_a_name_that_is_set_already_is_not_advised(
    tmp_path: Path, imported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OwnLoader(SourceFileLoader):
        pass

    file = package(tmp_path / "libraries", "lib_path", layers=ON_CUDA) / "layers.py"
    monkeypatch.setenv(VARIABLE, "by_path")
    monkeypatch.setattr(torch.cuda, "_lazy_init", no_gpu)
    imported()
    module = loaded_from(file, OwnLoader("by_path", str(file)))
    with pytest.raises((AssertionError, RuntimeError)) as error:
        module.make()
    assert "by_path,by_path" not in str(error.value)
    assert "import it from a .py file" in str(error.value)


def test_large_packages_are_not_read(imported: Any) -> None:
    imported()
    assert DEVICE_NAME not in vars(importlib.import_module("torch.utils.checkpoint"))
    assert not uses_bmtrain("json")
