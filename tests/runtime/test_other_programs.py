"""Programs as others write them for BMTrain, with a library in a folder of its own: see programs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ranks import REPOSITORY, Finished, assert_passed, names_of_checks, run_ranks

PROGRAMS = Path(__file__).parent / "programs"
LIBRARIES = {"PYTHONPATH": f"{REPOSITORY}:{PROGRAMS / 'libraries'}", "FM9G_RETARGET": "never_names_it"}


@pytest.fixture(scope="module", params=[1, 2], ids="{} ranks".format)
def spellings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("spellings")
    return run_ranks(PROGRAMS / "spellings.py", request.param, folder, env=LIBRARIES, module="fm9g.runtime")


@pytest.fixture(scope="module")
def spawning(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("spawning")
    return run_ranks(PROGRAMS / "spawning.py", 1, folder, ["--flag"], LIBRARIES, "fm9g.runtime", timeout=90)


@pytest.mark.parametrize("check", names_of_checks(PROGRAMS / "spellings.py"))
def test_spellings(check: str, spellings: Finished) -> None:
    assert_passed(spellings, check)


@pytest.mark.parametrize("check", names_of_checks(PROGRAMS / "spawning.py"))
def test_processes_of_a_program(check: str, spawning: Finished) -> None:
    assert_passed(spawning, check)


def test_they_end_without_an_error(spellings: Finished, spawning: Finished) -> None:
    assert spellings.returncode == 0, spellings.output
    assert spawning.returncode == 0, spawning.output
