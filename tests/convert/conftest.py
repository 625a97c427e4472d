"""Models that the tests of fm9g/convert share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.convert.helpers import save, tiny_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 tiny LLaMA in one safetensors file: read it, do not change it."""
    return save(tiny_llama(), tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def own_llama(tmp_path: Path) -> Path:
    """The same, to be changed."""
    return save(tiny_llama(), tmp_path / "own_llama")
