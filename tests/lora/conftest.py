"""One tiny place for all tests of a file."""

from __future__ import annotations

import pytest

from tests.support.places import Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data, tokenizer, mixture and model: read them, do not change them."""
    return Place.make(tmp_path_factory.mktemp("place"))
