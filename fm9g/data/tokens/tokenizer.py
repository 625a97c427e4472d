"""Text to token ids and back, from a sentencepiece model or a Hugging Face tokenizer folder.

Only files are read, never code from the folder. Text is data: a spelling of a special token inside it, such as
"</s>", is encoded as plain text, so that a document cannot end itself, unless the caller says that the text may write
some (fm9g.data.tokens.special says which tokens are special). Other added tokens, and symbols that a sentencepiece
model defines as user_defined, are ordinary vocabulary and are recognised.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers

from fm9g.data.tokens.sentencepiece_proto import UNIGRAM, for_normalized_text, read_sentencepiece
from fm9g.data.tokens.special import Vocabulary, Written, rewrite
from fm9g.data.tokens.unigram import UnigramEncoder
from fm9g.data.tokens.vocabulary_files import why_not_alone
from fm9g.errors import UserError
from fm9g.files import read_json, require_file

# pieces of text (words, or Chinese clauses) whose tokens are remembered; none is ever replaced, and the library's own
# 10,000 are soon full
_REMEMBERED_PIECES = 1 << 15


class Tokenizer(ABC):
    """What every tokenizer offers; a pickled copy loads the same file again."""

    path: Path  # of the file that holds the vocabulary, absolute
    bos_id: int | None  # the token before a document, None where the tokenizer has none
    eos_id: int  # the token after a document
    unknown_id: int | None  # what text becomes that the vocabulary cannot spell, None where there is no such token
    spellings: Mapping[int, str]  # how each token is spelled in the vocabulary, by id
    special: dict[int, str]  # {id: spelling} of the tokens that no text gives unless it may write them
    vocab_size: int  # every id is below it
    vocabulary: str  # sha256, hex, of what each id spells: the same for all forms of a tokenizer's file
    marks_first: bool = False  # whether a text that a document begins with is marked by a blank, and no other text is
    fingerprint: str  # sha256, hex, of all that changes ids or documents: the file, BOS and EOS, which ids are special

    def encode(self, text: str, written: Written = Written.NONE) -> list[int]:
        """Token ids of `text`, without BOS and EOS; a lone surrogate, which is no character, becomes U+FFFD."""
        return self.encode_all([text], written)[0]

    @abstractmethod
    def id_of(self, spelling: str) -> int | None:
        """The token that is spelled so in the vocabulary; None where there is none."""

    def spell(self, id: int) -> str:
        """How a token is spelled in the vocabulary."""
        return self.spellings[id]

    @abstractmethod
    def cut(self, spelling: str) -> list[int]:
        """The tokens of a piece's text, wherever in a text it stands; what it is spelled by is that of this one's
        pieces (▁ for a blank, or characters for bytes)."""

    def encode_after_token(self, texts: Sequence[str], written: Written = Written.NONE) -> list[list[int]]:
        """Like `encode_all`, of texts that follow a token (see `marks_first`)."""
        return self.encode_all(texts, written)

    @property
    def strips(self) -> Mapping[int, tuple[bool, bool]]:
        """{token: whether white space to its left, and to its right, is a part of it}, of those that have any."""
        return {}

    @abstractmethod
    def encode_all(self, texts: Sequence[str], written: Written = Written.NONE) -> list[list[int]]:
        """The token ids of each text, as `encode` gives them."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""

    def count_special(self, ids: Iterable[int]) -> int:
        """How many of `ids` are special tokens."""
        return sum(id in self.special for id in ids)

    def _written(self, written: Written) -> set[int]:
        """The ids of the special tokens that a text may write."""
        ids = set() if written is Written.NONE else set(self.special)
        return ids - {self.bos_id, self.eos_id} if written is Written.INNER else ids

    def _fingerprint(self, content: bytes) -> str:
        roles = {"bos": self.bos_id, "eos": self.eos_id, "special": sorted(self.special)}
        return _sha256(_sha256(content).encode() + json.dumps(roles, sort_keys=True).encode())

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
        processor = self._processor
        self.bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
        self.eos_id = processor.eos_id()
        if self.eos_id < 0:
            raise UserError(f"{path}: the sentencepiece model has no end-of-sentence token (train it with eos_id >= 0)")
        self.unknown_id = processor.unk_id() if processor.unk_id() >= 0 else None
        self.vocab_size = processor.get_piece_size()
        self.special = {id: processor.id_to_piece(id) for id in range(self.vocab_size) if processor.is_control(id)}
        # models of words or characters take a whole word for a control piece that is spelled alike
        self._confuses = any(id in processor.encode(piece) for id, piece in self.special.items())
        model = read_sentencepiece(path)
        self._unigram = UnigramEncoder(path, processor, model) if model.algorithm == UNIGRAM else None
        self.spellings = {id: processor.id_to_piece(id) for id in range(self.vocab_size)}
        self.vocabulary = _vocabulary(self.spellings)
        self.fingerprint = self._fingerprint(path.read_bytes())

    def encode_all(self, texts: Sequence[str], written: Written = Written.NONE) -> list[list[int]]:
        """See Tokenizer. What stands between two special tokens is encoded as a text of its own, as other libraries do
        with the exported tokenizer."""
        texts = [without_surrogates(text) for text in texts]
        ids = {self.special[id]: id for id in self._written(written)}
        if not ids:
            return [self._plain(text) for text in texts]
        spelled = re.compile(f"({'|'.join(map(re.escape, sorted(ids, key=len, reverse=True)))})")
        return [
            [id for part in spelled.split(text) for id in ([ids[part]] if part in ids else self._plain(part))]
            for text in texts
        ]

    def id_of(self, spelling: str) -> int | None:
        """See Tokenizer."""
        id = self._processor.piece_to_id(spelling)
        return id if self._processor.id_to_piece(id) == spelling else None

    def cut(self, spelling: str) -> list[int]:
        """See Tokenizer."""
        return self._normalized.encode(spelling)

    @functools.cached_property
    def _normalized(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=for_normalized_text(self.path.read_bytes()))

    def _plain(self, text: str) -> list[int]:
        if self._unigram:
            return self._unigram.encode(text)
        ids = self._processor.encode(text)
        return [self._processor.unk_id() if id in self.special else id for id in ids] if self._confuses else ids

    def decode(self, ids: Sequence[int]) -> str:
        """See Tokenizer."""
        return self._processor.decode(list(ids))


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer.json of a Hugging Face folder, with BOS and EOS from the json files beside it."""

    def __init__(self, path: Path):
        self.path = path.absolute()
        read_library(path)
        # a row's texts are too few to share out, and threads do not survive a fork
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._content = path.read_bytes()
        content = json.loads(self._content)
        vocabulary = Vocabulary.of(content)
        ids = {spelling: id for id, spelling in vocabulary.spellings.items()}
        self.bos_id, eos_id = _special_ids(path.parent, ids)
        if eos_id is None:
            raise UserError(
                f"{path.parent}: no end-of-sequence token: set eos_token in tokenizer_config.json to a token of "
                "tokenizer.json"
            )
        self.eos_id = eos_id
        unknown = vocabulary.unknown_id
        if unknown is not None and unknown in (self.bos_id, eos_id) and not vocabulary.drops_unknown:
            raise UserError(
                f"{path}: unknown text gives {vocabulary.spellings[unknown]!r}, which begins or ends a document: set "
                "bos_token and eos_token in tokenizer_config.json to tokens of their own"
            )
        self.unknown_id = vocabulary.unknown_id
        self.special = vocabulary.special((self.bos_id, eos_id), *_named_ids(path.parent, ids))
        self.vocab_size = max(vocabulary.spellings, default=-1) + 1
        self.vocabulary = _vocabulary(vocabulary.spellings)
        matters = {key: value for key, value in content.items() if key not in ("truncation", "padding")}
        self.fingerprint = self._fingerprint(json.dumps(matters, sort_keys=True).encode())
        self._ids, self.spellings, self.added = ids, vocabulary.spellings, frozenset(vocabulary.added)
        self._strips = {
            id: (bool(token.get("lstrip")), bool(token.get("rstrip")))
            for id, token in vocabulary.added.items()
            if token.get("lstrip") or token.get("rstrip")
        }
        self.marks_first = '"prepend_scheme": "first"' in json.dumps(content.get("pre_tokenizer"))
        self._tokenizers = {(Written.NONE, False): self._tokenizer(content, vocabulary, Written.NONE)}

    def id_of(self, spelling: str) -> int | None:
        """See Tokenizer."""
        return self._ids.get(spelling)

    def cut(self, spelling: str) -> list[int]:
        """See Tokenizer."""
        return [token.id for token in self._library.model.tokenize(spelling)]

    @functools.cached_property
    def _library(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._content.decode("utf-8"))

    @property
    def strips(self) -> Mapping[int, tuple[bool, bool]]:
        """See Tokenizer."""
        return self._strips

    def _tokenizer(self, content: dict[str, Any], vocabulary: Vocabulary, written: Written) -> tokenizers.Tokenizer:
        """The tokenizer of tokenizer.json's `content`, which is changed, for texts that may write so much."""
        rewrite(content, vocabulary, self.special, self._written(written))
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        tokenizer.encode_special_tokens = True  # spellings of what is marked special are plain text
        tokenizer.no_truncation()  # the file may hold settings of someone's last call
        tokenizer.no_padding()
        if remember := getattr(tokenizer.model, "_resize_cache", None):  # of BPE and Unigram, since 0.21
            remember(_REMEMBERED_PIECES)
        return tokenizer

    def encode_all(self, texts: Sequence[str], written: Written = Written.NONE) -> list[list[int]]:
        """See Tokenizer."""
        return self._encode(texts, written, False)

    def encode_after_token(self, texts: Sequence[str], written: Written = Written.NONE) -> list[list[int]]:
        """See Tokenizer."""
        return self._encode(texts, written, self.marks_first)

    def _encode(self, texts: Sequence[str], written: Written, unmarked: bool) -> list[list[int]]:
        if (written, unmarked) not in self._tokenizers:
            content = json.loads(self._content)
            if unmarked:
                _unmark(content["pre_tokenizer"])
            self._tokenizers[written, unmarked] = self._tokenizer(content, Vocabulary.of(content), written)
        tokenizer, texts = self._tokenizers[written, unmarked], [without_surrogates(text) for text in texts]
        # the fast one leaves out where in the text each token lies, which takes a quarter of the time
        encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)  # tokenizers 0.19 has none
        return [encoding.ids for encoding in encode(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """See Tokenizer."""
        return self._tokenizers[Written.NONE, False].decode(list(ids), skip_special_tokens=True)


def read_library(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a tokenizer.json; UserError where the library finds none."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises Exception itself, and PanicException of Rust, which is none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{path}: not a tokenizer that the tokenizers library can read ({error})") from None


def _unmark(pre_tokenizer: dict[str, Any]) -> None:
    """Change a pre-tokenizer, or those of a sequence, that marks the beginning of a first text, so that it does not."""
    for part in pre_tokenizer.get("pretokenizers") or [pre_tokenizer]:
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load a sentencepiece file, a Hugging Face folder (tokenizer.json), or a folder with a tokenizer.model.

    Raises UserError where there is no tokenizer, or where it has no EOS token.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such tokenizer (a sentencepiece .model file or a Hugging Face tokenizer folder)")
    if path.is_dir():
        return _load_folder(path)
    require_file(path)
    if path.suffix == ".json":
        return HuggingFaceTokenizer(path)
    return SentencePieceTokenizer(path)


def _load_folder(folder: Path) -> Tokenizer:
    if os.path.lexists(folder / "tokenizer.json"):
        return HuggingFaceTokenizer(require_file(folder / "tokenizer.json"))
    if why := why_not_alone(folder):
        raise UserError(why)
    if os.path.lexists(folder / "tokenizer.model"):
        return SentencePieceTokenizer(require_file(folder / "tokenizer.model"))
    raise UserError(
        f"{folder}: holds neither tokenizer.json nor tokenizer.model; with other vocabulary files, write a "
        "tokenizer.json: transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
    )


_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")


def _special_ids(folder: Path, ids: Mapping[str, int]) -> tuple[int | None, int | None]:
    """BOS and EOS ids. The first file that mentions BOS decides (null means none); the first that has EOS does."""
    configs = [read_object(folder / name) for name in _CONFIGS]
    model_config = read_object(folder / "config.json")
    names: dict[str, list[int | None]] = {"bos_token": [], "eos_token": []}
    for key, found in names.items():
        found += [_token_id(config[key], key, folder, ids) for config in configs if key in config]
        if f"{key}_id" in model_config:
            found.append(_first_id(model_config[f"{key}_id"]))
    bos, eos = names["bos_token"], names["eos_token"]
    return (bos[0] if bos else None), next((id for id in eos if id is not None), None)


def _named_ids(folder: Path, ids: Mapping[str, int]) -> tuple[set[int], set[str]]:
    """Ids that the files beside tokenizer.json name as special, and the added tokens that they mark as such."""
    contents: list[Any] = []
    marked: set[str] = set()
    for config in (read_object(folder / name) for name in _CONFIGS):
        for key, value in config.items():
            if key.endswith("_token"):
                contents.append(value)
            elif key.endswith("special_tokens") and isinstance(value, (list, dict)):
                contents += value.values() if isinstance(value, dict) else value
        added = config.get("added_tokens_decoder")
        for token in added.values() if isinstance(added, dict) else ():
            if isinstance(token, dict) and token.get("special") is True:
                marked.add(str(token.get("content")))
    ends = read_object(folder / "config.json").get("eos_token_id")
    named = {ids[text] for text in map(content_of, contents) if text is not None and text in ids}
    return named | {id for id in (ends if isinstance(ends, list) else []) if isinstance(id, int)}, marked


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`, an empty one where there is no such file."""
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return config


def content_of(token: Any) -> str | None:
    """The spelling of a token given as "</s>", as {"content": "</s>", …}, or as null."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _token_id(entry: Any, key: str, folder: Path, ids: Mapping[str, int]) -> int | None:
    if entry is None:
        return None
    content = content_of(entry)
    if content is None or content not in ids:
        shown = entry.get("content") if isinstance(entry, dict) else entry
        raise UserError(f"{folder}: {key} is {shown!r}, which is not in tokenizer.json")
    return ids[content]


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


def _vocabulary(spellings: Mapping[int, str]) -> str:
    return _sha256(json.dumps(sorted(spellings.items())).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
