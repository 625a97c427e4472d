"""The files of a Hugging Face folder that are not weights: which to copy, and which token ids they tell."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fm9g.convert.tokenizer.sentencepiece_json import tokenizer_json
from fm9g.data.tokens.special import Vocabulary
from fm9g.data.tokens.tokenizer import Tokenizer, content_of, load_tokenizer, read_object
from fm9g.data.tokens.vocabulary_files import is_ranks
from fm9g.errors import UserError, shown
from fm9g.files import write_json

TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "chat_template*",
    "*.py",  # copied as data, so that a reference's auto_map still resolves; never imported here
)
REFERENCE_FILES = (*TOKENIZER_FILES, "generation_config.json")
# Never copied: the reference's index, which would describe shards that are not there.
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
FAST_CLASS = "PreTrainedTokenizerFast"
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_model_folder_file(name: str) -> bool:
    """Whether a file of this name belongs to a model, or to adapters, as these tools write them."""
    return name in ("config.json", "adapter_config.json") or _matches(name, (*REFERENCE_FILES, *WEIGHT_FILES))


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of `source` that match, links followed, weights and their index never."""
    for path in sorted(source.iterdir()):
        if path.is_file() and _matches(path.name, patterns) and not _matches(path.name, WEIGHT_FILES):
            shutil.copyfile(path, target / path.name)


def install_tokenizer(tokenizer: Path, target: Path, vocab_size: int) -> dict[str, int | None]:
    """Put a tokenizer (a Hugging Face folder, or a sentencepiece .model file) into the folder `target`.

    Returns bos_token_id and eos_token_id (None where unknown), and pad_token_id where there is one. What training reads
    as BOS and EOS, the folder's tokenizer_config.json then names, too. A tokenizer with ids beyond `vocab_size` is a
    UserError.
    """
    if tokenizer.name == "tokenizer.json":
        tokenizer = tokenizer.parent
    trained = load_tokenizer(tokenizer) if training_reads(tokenizer) else None
    if tokenizer.is_dir():
        for name in COMPANIONS:
            read_object(tokenizer / name)  # an error names the file that is the user's, not its copy
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
    special = _named_ids(target, ids)
    if trained is not None:
        special |= {"bos_token_id": trained.bos_id, "eos_token_id": trained.eos_id}
        name_ends(target, trained)
    largest = max((id for id in (*ids.values(), *special.values()) if id is not None), default=-1)
    if largest >= vocab_size:
        raise UserError(f"{tokenizer}: has token id {shown(largest)}, but the model's vocab_size is {vocab_size}")
    return special


def training_reads(tokenizer: Path) -> bool:
    """Whether `tokenizer` is one for training: all but folders with other vocabulary files alone."""
    if not tokenizer.is_dir():
        return tokenizer.exists()
    return any(os.path.lexists(tokenizer / name) for name in ("tokenizer.json", "tokenizer.model"))


def has_tiktoken(tokenizer: Path) -> bool:
    """Whether all that a folder has is a tokenizer.model of tiktoken (GLM-4's), which training does not read: it
    needs the tokenizer.json that tools/tokenizer_json.py writes of it."""
    model = tokenizer / "tokenizer.model"
    return model.is_file() and not (tokenizer / "tokenizer.json").exists() and is_ranks(model)


def complete_tokenizer(folder: Path) -> None:
    """Give a folder with tokenizer.model but no tokenizer.json the latter, which transformers reads as it is."""
    if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists() and not has_tiktoken(folder):
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
    settings = read_object(config)
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
    write_settings(config, settings)


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
    """Token -> id from the files that say it in plain JSON."""
    ids: dict[str, int] = {}
    if (folder / "tokenizer.json").exists():
        spellings = Vocabulary.of(read_object(folder / "tokenizer.json")).spellings
        ids = {spelling: id for id, spelling in spellings.items()}
    for name in ("added_tokens.json",) if ids else ("vocab.json", "added_tokens.json"):
        entries = read_object(folder / name)
        if not all(isinstance(id, int) for id in entries.values()):
            raise UserError(f"{name}: must hold the id of each token, a whole number")
        ids |= entries
    return ids


def _named_ids(folder: Path, ids: dict[str, int]) -> dict[str, int | None]:
    """The ids of the tokens that the files of `folder` name as BOS, EOS and padding."""
    settings = read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")
    added = settings.get("added_tokens_decoder")
    for number, token in added.items() if isinstance(added, dict) else ():
        spelling = content_of(token)
        if spelling is not None and number.isascii() and number.isdecimal():
            ids.setdefault(spelling, int(number[:20]))
    special: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None}
    for key in SPECIAL_TOKENS:
        spelling = content_of(settings.get(key))
        if spelling in ids:
            special[f"{key}_id"] = ids[spelling]
    return special


def name_ends(folder: Path, trained: Tokenizer) -> None:
    """Name BOS and EOS of training in tokenizer_config.json, where it does not: they may stand in another file."""
    path = folder / "tokenizer_config.json"
    settings = read_object(path)
    ends = {"bos_token": trained.bos_id, "eos_token": trained.eos_id}
    unnamed = {key: trained.special[id] for key, id in ends.items() if id in trained.special and not settings.get(key)}
    if unnamed:
        write_settings(path, settings | unnamed)


def name_fast_class(folder: Path) -> bool:
    """Have transformers take the tokenizer.json of `folder` as it is; False where it does already."""
    path = folder / "tokenizer_config.json"
    settings = read_object(path)
    if settings.get("tokenizer_class") == FAST_CLASS:
        return False
    write_settings(path, {**settings, "tokenizer_class": FAST_CLASS})
    return True


def mark_special(folder: Path, special: Mapping[int, str]) -> bool:
    """Mark the tokens {id: spelling} as special in `folder`; False where all of them are."""
    path = folder / "tokenizer.json"
    content = read_object(path)
    added = content.setdefault("added_tokens", [])
    marked = {token["id"] for token in added if token.get("special")}
    missing = {id: spelling for id, spelling in special.items() if id not in marked}
    if not missing:
        return False
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    known = {token["id"]: token for token in added}
    for id, spelling in missing.items():
        if id in known:
            known[id]["special"] = True
        else:
            added.append({"id": id, "content": spelling, **flags, "special": True})
    added.sort(key=lambda token: token["id"])
    write_settings(path, content)
    config = folder / "tokenizer_config.json"
    settings = read_object(config)
    for number, token in settings.get("added_tokens_decoder", {}).items():
        if isinstance(token, dict) and number.isdecimal() and int(number) in missing:
            token["special"] = True
    write_settings(config, settings)
    return True


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write a tokenizer_config.json; one with half of a surrogate pair, which is no text, is a UserError."""
    try:
        write_json(path, settings)
    except (UnicodeEncodeError, RecursionError) as error:
        raise UserError(f"{path.name}: cannot be written again: {error}") from None
