"""One tiny place for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fm9g.data import jsonl_files
from tests.support.builds import dump
from tests.support.places import Place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, tokenizer, mixture and model config: read them, do not change them."""
    return Place.make(tmp_path_factory.mktemp("place"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of ten records to build from."""
    path = tmp_path / "source.jsonl"
    path.write_bytes(b"".join(dump({"input": "問", "output": f"答 {i}"}) for i in range(10)))
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files read in blocks of a line or two."""
    monkeypatch.setattr(jsonl_files, "BLOCK_BYTES", 64)
