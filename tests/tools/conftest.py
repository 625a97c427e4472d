"""Running a tool, and one tiny place for all tests of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.places import Place
from tests.support.tools import run_tool, run_tool_here


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, tokenizer and mixture: read them, do not change them."""
    return Place.make(tmp_path_factory.mktemp("place"))


@pytest.fixture
def shown_by(tmp_path: Path) -> Callable[..., str]:
    """What a tool prints, or says on stderr where its exit status is another than 0.

    With environment variables it gets a process of its own.
    """

    def run(tool: str, *words: object, status: int = 0, **variables: str) -> str:
        given = [str(word) for word in words]
        done = run_tool(tool, given, tmp_path, variables) if variables else run_tool_here(tool, given, tmp_path)
        assert done.returncode == status, done.output
        return done.output

    return run
