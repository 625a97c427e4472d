"""The house: imports go one way, nothing goes in a circle, and files and functions stay small."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator

import pytest

from tests.support.sources import ROOT, Source, sources

# A room imports from the floors below its own, never from beside it or from above.
FLOORS = (
    {"errors", "progress_bar", "signals"},
    {"files", "environment", "display"},
    {"settings", "commandline", "figures", "launcher"},
    {"tensors", "runtime"},
    {"model", "data"},
    {"objectives", "lora", "checkpoint", "generation"},
    {"convert"},
    {"serve"},
    {"training"},
    {"commands"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60

ALL = sources()
PACKAGE = [source for source in ALL if source.path.parts[0] == "fm9g"]
MODULES = {source.module for source in ALL}


def imported(source: Source) -> Iterator[str]:
    """The project's modules that a file imports."""
    for name in source.imports():
        module = name if name in MODULES else name.rpartition(".")[0]
        if module in MODULES:
            yield module


def room_of(module: str) -> str:
    """The part of fm9g that a module is in; "" of fm9g itself."""
    return [*module.split("."), ""][1]


def test_every_room_has_a_floor() -> None:
    assert {room_of(source.module) for source in PACKAGE} - {""} == set(FLOOR)


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_a_room_imports_from_the_floors_below(room: str) -> None:
    inside = [source for source in PACKAGE if room_of(source.module) == room]
    assert inside
    for source in inside:
        for module in imported(source):
            other = room_of(module)
            allowed = module.startswith("fm9g") and (other in ("", room) or FLOOR[other] < FLOOR[room])
            assert allowed, f"{source.path} imports {module}"


@pytest.mark.parametrize("page", ["architecture.md", "architecture.zh.md"])
def test_the_page_shows_this_house(page: str) -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
    assert {int(number): set(re.findall(r"`(\w+)`", rooms)) for number, rooms in rows} == dict(enumerate(FLOORS, 1))


def test_the_programs_are_shells_over_the_package() -> None:
    """Nothing in the package, the tools or the apps needs the tests or the benchmarks."""
    for source in ALL:
        if source.path.parts[0] in ("fm9g", "tools", "apps"):
            wrong = [module for module in imported(source) if module.partition(".")[0] in ("tests", "benchmarks")]
            assert not wrong, source.path


def test_no_import_goes_in_a_circle() -> None:
    """Counting those inside functions and those for types alone."""
    graph = {source.module: set(imported(source)) - {source.module} for source in ALL}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle
    assert len(order) == len(MODULES)


def test_files_of_torch_are_read_in_one_place() -> None:
    """Where damage is named and no code is run; runtime/ has a torch.load for programs of others."""
    reading = {str(source.path) for source in PACKAGE if source.calls("torch.load")}
    assert reading == {"fm9g/tensors/readers.py", "fm9g/runtime/devices.py"}


def test_private_fields_of_bmtrain_stay_in_runtime() -> None:
    private = re.compile(r"\._(ready|storage_(params|info)|param_info|original_shape|(start|end)_partition|in_block)\b")
    found = {source.path.parts[1] for source in PACKAGE if private.search((ROOT / source.path).read_text("utf-8"))}
    assert found == {"runtime"}


def test_files_and_functions_are_small() -> None:
    long_files = {str(source.path): source.lines for source in ALL if source.lines > MOST_LINES}
    assert not long_files
    functions = {f"{source.path}:{name}": lines for source in ALL for name, lines in source.functions().items()}
    assert not {name: lines for name, lines in functions.items() if lines > MOST_LINES_OF_A_FUNCTION}
