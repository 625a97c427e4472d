"""Text to token ids and back, from a sentencepiece model or a Hugging Face tokenizer folder.

Only files are read, never code from the folder. Text is data: a spelling of a special token inside it, such as
"</s>", is encoded as plain text, so that a document cannot end itself. (Symbols that a sentencepiece model defines
as user_defined, and added tokens that are not special, are ordinary vocabulary and are still recognised.)
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers

from fm9g.errors import UserError
from fm9g.files import read_json

# pieces of text (words, or Chinese clauses) whose tokens are remembered; none is ever replaced, and the library's own
# 10,000 are soon full
_REMEMBERED_PIECES = 1 << 15


class Tokenizer(ABC):
    """What every tokenizer offers; a pickled copy loads the same file again."""

    path: Path  # of the file that holds the vocabulary, absolute
    bos_id: int | None  # the token before a document, None where the tokenizer has none
    eos_id: int  # the token after a document
    vocab_size: int  # every id is below it
    fingerprint: str  # sha256 of the file, hex

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens; a lone surrogate, which is no character, becomes U+FFFD."""
        return self.encode_all([text])[0]

    @abstractmethod
    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, as `encode` gives them."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return load_tokenizer, (self.path,)


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece `.model` file."""

    def __init__(self, path: Path):
        self.path = path.absolute()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except RuntimeError as error:
            raise UserError(f"{path}: not a sentencepiece model ({error})") from None
        self.bos_id = self._processor.bos_id() if self._processor.bos_id() >= 0 else None
        self.eos_id = self._processor.eos_id()
        if self.eos_id < 0:
            raise UserError(f"{path}: the sentencepiece model has no end-of-sentence token (train it with eos_id >= 0)")
        self.vocab_size = self._processor.get_piece_size()
        self.fingerprint = _sha256(path)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """See Tokenizer."""
        return [self._processor.encode(without_surrogates(text)) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """See Tokenizer."""
        return self._processor.decode(list(ids))


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer.json of a Hugging Face folder, with BOS and EOS from the json files beside it."""

    def __init__(self, path: Path):
        self.path = path.absolute()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises this very class
            raise UserError(f"{path}: not a tokenizer that the tokenizers library can read ({error})") from None
        self._tokenizer.encode_special_tokens = True  # spellings of special tokens in text are plain text
        self._tokenizer.no_truncation()  # the file may hold settings of someone's last call
        self._tokenizer.no_padding()
        if remember := getattr(self._tokenizer.model, "_resize_cache", None):  # of BPE and Unigram, since 0.21
            remember(_REMEMBERED_PIECES)
        # a row's texts are too few to share out, and threads do not survive a fork
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.bos_id, eos_id = _special_ids(path.parent, self._tokenizer)
        if eos_id is None:
            raise UserError(
                f"{path.parent}: no end-of-sequence token: set eos_token in tokenizer_config.json to a token of "
                "tokenizer.json"
            )
        self.eos_id = eos_id
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.fingerprint = _sha256(path)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """See Tokenizer."""
        texts = [without_surrogates(text) for text in texts]
        # the fast one leaves out where in the text each token lies, which takes a quarter of the time
        encode = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)  # tokenizers 0.19 has none
        return [encoding.ids for encoding in encode(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """See Tokenizer."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load a sentencepiece file, a Hugging Face folder (tokenizer.json), or a folder with a tokenizer.model.

    Raises UserError where there is no tokenizer, or where it has no EOS token.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such tokenizer (a sentencepiece .model file or a Hugging Face tokenizer folder)")
    if path.is_dir():
        return _load_folder(path)
    if path.suffix == ".json":
        return HuggingFaceTokenizer(path)
    return SentencePieceTokenizer(path)


def _load_folder(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").exists():
        return HuggingFaceTokenizer(folder / "tokenizer.json")
    if (folder / "tokenizer.model").exists():
        return SentencePieceTokenizer(folder / "tokenizer.model")
    raise UserError(
        f"{folder}: holds neither tokenizer.json nor tokenizer.model; with other vocabulary files, write a "
        "tokenizer.json: transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
    )


def _special_ids(folder: Path, tokenizer: tokenizers.Tokenizer) -> tuple[int | None, int | None]:
    """BOS and EOS ids. The first file that mentions BOS decides (null means none); the first that has EOS does."""
    configs = [_read_config(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    model_config = _read_config(folder / "config.json")
    names: dict[str, list[int | None]] = {"bos_token": [], "eos_token": []}
    for key, found in names.items():
        found += [_token_id(config[key], key, folder, tokenizer) for config in configs if key in config]
        if f"{key}_id" in model_config:
            found.append(_first_id(model_config[f"{key}_id"]))
    bos, eos = names["bos_token"], names["eos_token"]
    return (bos[0] if bos else None), next((id for id in eos if id is not None), None)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return config


def _token_id(entry: Any, key: str, folder: Path, tokenizer: tokenizers.Tokenizer) -> int | None:
    """The id of a token given as "</s>", as {"content": "</s>", …}, or as null."""
    if entry is None:
        return None
    content = entry.get("content") if isinstance(entry, dict) else entry
    token_id = tokenizer.token_to_id(content) if isinstance(content, str) else None
    if token_id is None:
        raise UserError(f"{folder}: {key} is {content!r}, which is not in tokenizer.json")
    return token_id


def _first_id(value: Any) -> int | None:
    """config.json gives an id, or a list of those that end a text; the first is the one to write."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) else None


def without_surrogates(text: str) -> str:
    """JSON can spell half of a surrogate pair ("\\ud83d"), which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
