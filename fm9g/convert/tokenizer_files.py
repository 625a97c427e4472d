"""The files of a Hugging Face folder that are not weights: which to copy, and which token ids they tell."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from typing import Any

from fm9g.convert.sentencepiece_json import tokenizer_json
from fm9g.errors import UserError
from fm9g.files import read_json, write_json

TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template*",
    "*.py",  # copied as data, so that a reference's auto_map still resolves; never imported here
)
REFERENCE_FILES = (*TOKENIZER_FILES, "generation_config.json")
# Never copied: the reference's index, which would describe shards that are not there.
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
FAST_CLASS = "PreTrainedTokenizerFast"
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_model_folder_file(name: str) -> bool:
    """Whether a file of this name belongs to a model as these tools write it."""
    return name == "config.json" or _matches(name, (*REFERENCE_FILES, *WEIGHT_FILES))


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of `source` that match, links followed, weights and their index never."""
    for path in sorted(source.iterdir()):
        if path.is_file() and _matches(path.name, patterns) and not _matches(path.name, WEIGHT_FILES):
            shutil.copyfile(path, target / path.name)


def install_tokenizer(tokenizer: Path, target: Path, vocab_size: int) -> dict[str, int | None]:
    """Put a tokenizer (a Hugging Face folder, or a sentencepiece .model file) into the folder `target`.

    Returns bos_token_id and eos_token_id (None where unknown), and pad_token_id where there is one.
    A tokenizer with ids beyond `vocab_size` is a UserError.
    """
    if tokenizer.name == "tokenizer.json":
        tokenizer = tokenizer.parent
    if tokenizer.is_dir():
        copy_files(tokenizer, target, TOKENIZER_FILES)
        if not any((target / name).exists() for name in VOCABULARIES):
            raise UserError(f"{tokenizer}: no tokenizer in it: none of {', '.join(VOCABULARIES)}")
        complete_tokenizer(target)
    elif tokenizer.is_file():
        shutil.copyfile(tokenizer, target / "tokenizer.model")
        write_sentencepiece_json(tokenizer, target)
    else:
        raise UserError(f"{tokenizer}: no such file or folder")
    ids = _vocabulary(target)
    largest = max(ids.values(), default=-1)
    if largest >= vocab_size:
        raise UserError(f"{tokenizer}: has token id {largest}, but the model's vocab_size is {vocab_size}")
    return _special_ids(target, ids)


def complete_tokenizer(folder: Path) -> None:
    """Give a folder with tokenizer.model but no tokenizer.json the latter, which transformers reads as it is."""
    if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists():
        write_sentencepiece_json(folder / "tokenizer.model", folder)


def write_sentencepiece_json(model: Path, folder: Path) -> None:
    """Write the tokenizer.json of a sentencepiece model, and tokenizer_config.json (what it says already is kept).

    The class is the one that takes tokenizer.json as it is: LlamaTokenizer builds another from its vocabulary.
    """
    pieces = _sentencepiece(model)
    numbers = {token: getattr(pieces, f"{token}_id")() for token in ("bos", "eos", "unk", "pad")}
    special = {number for number in range(pieces.get_piece_size()) if pieces.is_control(number)} | {numbers["unk"]}
    bos = numbers["bos"] if numbers["bos"] >= 0 else None
    write_json(folder / "tokenizer.json", tokenizer_json(model, sorted(special), bos))
    config = folder / "tokenizer_config.json"
    settings = read_json(config) if config.exists() else {}
    for key in ("add_bos_token", "add_eos_token", "add_prefix_space", "auto_map", "legacy", "sp_model_kwargs"):
        settings.pop(key, None)  # of the class that was
    for token, number in numbers.items():
        if number >= 0 or token == "bos":
            settings[f"{token}_token"] = pieces.id_to_piece(number) if number >= 0 else None
    settings |= {
        "tokenizer_class": FAST_CLASS,
        "clean_up_tokenization_spaces": False,  # decoding would take spaces before commas out
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(config, settings)


def _sentencepiece(model: Path) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise UserError(f"{model}: reading it needs sentencepiece: pip install sentencepiece") from None
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{model}: not a sentencepiece model: {error}") from None


def _vocabulary(folder: Path) -> dict[str, int]:
    """Token -> id from the files that say it in plain JSON, or else from tokenizer.model."""
    ids: dict[str, int] = {}
    fast, slow = folder / "tokenizer.json", folder / "tokenizer.model"
    if fast.exists():
        contents = read_json(fast)
        vocab = contents.get("model", {}).get("vocab", {})
        # A unigram model lists [token, score] in the order of ids.
        ids.update(vocab if isinstance(vocab, dict) else {entry[0]: number for number, entry in enumerate(vocab)})
        ids.update({token["content"]: token["id"] for token in contents.get("added_tokens", [])})
    elif slow.exists():
        pieces = _sentencepiece(slow)
        ids.update({pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())})
    elif (folder / "vocab.json").exists():
        ids.update(read_json(folder / "vocab.json"))
    if (folder / "added_tokens.json").exists():
        ids.update(read_json(folder / "added_tokens.json"))
    return ids


def _special_ids(folder: Path, ids: dict[str, int]) -> dict[str, int | None]:
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings.update(read_json(folder / name))
    for number, token in settings.get("added_tokens_decoder", {}).items():
        ids.setdefault(token["content"], int(number))
    special: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None}
    for key in SPECIAL_TOKENS:
        token = settings.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        if text in ids:
            special[f"{key}_id"] = ids[text]
    return special
