"""Tokenizers that have the tokens of templates."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.support.chats import RECORDS, TEXTS, TOKENS
from tests.support.tiny_tokenizers import with_tokens


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tokenizer]:
    """The tokenizer for a template, perhaps with a Jinja template in its folder."""

    def make(name: str, jinja: str | None = None) -> Tokenizer:
        folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
        texts = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
        with_tokens(folder, [token for token in TOKENS if token not in TEXTS.get(name, [])], texts)
        if jinja is not None:
            config = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": jinja}))
        return load_tokenizer(folder)

    return make
