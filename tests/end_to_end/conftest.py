"""One tiny place for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.support.places import Place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, tokenizer, mixture and model config: read them, do not change them."""
    return Place.make(tmp_path_factory.mktemp("place"))
