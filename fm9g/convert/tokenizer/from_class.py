"""The tokenizer of a model family whose folder has no tokenizer.json, as a folder that has one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fm9g.convert.outputs import names_output
from fm9g.convert.tokenizer.around import added_entry, tokens_around
from fm9g.convert.tokenizer.byte_level import merges_json, ranks_json
from fm9g.convert.tokenizer.check import generated_texts, make_same
from fm9g.convert.tokenizer.classes import FAMILIES, MERGES, RANKS, TokenizerClass, check_settings, family_of
from fm9g.convert.tokenizer.files import FAST_CLASS, copy_files, write_settings
from fm9g.convert.tokenizer.sentencepiece_json import json_of_model
from fm9g.data.index.output_folder import output_folder
from fm9g.data.tokens.added import CONFIG, AddedToken, added_tokens
from fm9g.data.tokens.sentencepiece_proto import CONTROL, UNKNOWN, Piece, SentencePieceModel, read_sentencepiece
from fm9g.data.tokens.special import Vocabulary
from fm9g.data.tokens.tokenizer import SentencePieceTokenizer, content_of, load_tokenizer, read_object
from fm9g.errors import UserError, shown
from fm9g.files import require_file

_TEMPLATES = ("chat_template*",)
_WRITTEN = {"tokenizer.json", CONFIG, "special_tokens_map.json", "chat_template.jinja", "chat_template.json"}
_KEPT = ("chat_template", "model_max_length", "padding_side", "truncation_side")  # of tokenizer_config.json
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_OTHERS = ("cls_token", "sep_token", "mask_token")


class Report(NamedTuple):
    """What was written."""

    family: str
    size: int
    special: int


class _Source(NamedTuple):
    """A folder, what its settings say, and the tokens that it has beside its vocabulary file by id."""

    folder: Path
    config: dict[str, Any]
    row: TokenizerClass
    added: dict[int, AddedToken]


def write_tokenizer_json(source: Path, target: Path, family: str | None = None, overwrite: bool = False) -> Report:
    """Write the folder `target` with the tokenizer of the folder `source`, which has no tokenizer.json.

    UserError, which names the field, for what a tokenizer.json cannot do.
    """
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: is where the tokenizer is read from; choose another folder to save to")
    _check_source(source)
    config = read_object(source / "special_tokens_map.json") | read_object(source / CONFIG)
    added = added_tokens(source)
    name = family_of(source, config, added, family)
    row = FAMILIES[name]
    check_settings(source, config, row)
    with names_output(target), output_folder(target, overwrite, _WRITTEN) as folder:
        content, roles = _content(_Source(source, config, row, added))
        copy_files(source, folder, _TEMPLATES)
        write_settings(folder / "tokenizer.json", content)
        write_settings(folder / CONFIG, _settings(source, config, content, roles))
        try:
            _check(source, row, folder)
        except UserError as error:  # the folder's name while it is written is a hidden one
            raise UserError(str(error).replace(str(folder.absolute()), str(target))) from None
        written = load_tokenizer(folder)
        return Report(name, written.vocab_size, len(written.special))


def _check_source(source: Path) -> None:
    if not source.is_dir():
        raise UserError(f"{source}: not a folder with a tokenizer")
    if (source / "tokenizer.json").exists():
        raise UserError(f"{source}: has a tokenizer.json, which is used as it is: nothing to write")
    if not (source / CONFIG).exists():
        raise UserError(
            f"{source}: has no {CONFIG}, whose tokenizer_class says how the vocabulary is read: put the model's there"
        )


def _content(source: _Source) -> tuple[dict[str, Any], dict[str, str | None]]:
    """What tokenizer.json says, and the tokens of BOS, EOS and so on."""
    row, path = source.row, source.folder / source.row.file
    require_file(path)
    if row.form == RANKS:
        content = ranks_json(path, row.pattern, row.nfc)
    elif row.form == MERGES:
        content = merges_json(source.folder, row.pattern)
    else:
        return _of_pieces(source, path)
    spellings = Vocabulary.of(content).spellings
    added = _all_added(source, max(spellings) + 1)
    for id in (id for id in added if spellings.get(id, added[id].text) != added[id].text):
        raise UserError(
            f"{source.folder / CONFIG}: {shown(added[id].text)} has id {id}, which is {shown(spellings[id])}"
        )
    _check_apart(source, spellings, added)
    roles = _roles(source, {}, {*spellings.values(), *(token.text for token in added.values())})
    content["added_tokens"] = _entries(added, spellings, roles, row.nfc)
    ids = {text: id for id, text in Vocabulary.of(content).spellings.items()}
    content["post_processor"] = _around(source, roles, ids)
    return content, roles


def _of_pieces(source: _Source, path: Path) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Like `_content`, of a sentencepiece model."""
    model = read_sentencepiece(path)
    added = _all_added(source, len(model.pieces))
    model = _with_slots(source, model, added)
    processor = SentencePieceTokenizer(path)
    own = {"bos_token": processor.bos_id, "eos_token": processor.eos_id, "unk_token": processor.unknown_id}
    defaults = {name: None if id is None else model.pieces[id].text for name, id in own.items()}
    spellings = {id: piece.text for id, piece in enumerate(model.pieces)}
    roles = _roles(source, defaults, {*spellings.values(), *(token.text for token in added.values())})
    content = json_of_model(model, path, [], None)
    marked = {
        id: AddedToken(id, piece.text) for id, piece in enumerate(model.pieces) if piece.kind in (CONTROL, UNKNOWN)
    }
    content["added_tokens"] = _entries({**marked, **added}, spellings, roles, False)
    ids = {text: id for id, text in Vocabulary.of(content).spellings.items()}
    content["post_processor"] = _around(source, roles, ids)
    return content, roles


def _all_added(source: _Source, size: int) -> dict[int, AddedToken]:
    """The added tokens of the folder, and those that its class has after a vocabulary of `size`, by id."""
    found, where = dict(source.added), source.folder / CONFIG
    own = () if source.row.listed and found else source.row.after
    theirs = {size + place: text for place, text in enumerate(own)}
    for id, text in theirs.items():
        token = found.get(id, AddedToken(id, text))
        if token.text != text:
            raise UserError(f"{where}: id {id} is {shown(token.text)}, but its class has {shown(text)} there")
        found[id] = token._replace(special=True)
    ids: dict[str, int] = {}
    for id, token in found.items():
        if ids.setdefault(token.text, id) != id:
            raise UserError(f"{where}: {shown(token.text)} has id {ids[token.text]}, but its class gives it {id}")
    beyond = sorted(id for id in found if id >= size)
    gap = next((size + place for place, id in enumerate(beyond) if id != size + place), None)
    if gap is not None:
        raise UserError(
            f"{where}: added_tokens_decoder has no token of id {gap}, but of {beyond[-1]}: tokenizer.json has no ids "
            f"left out after the {size} of {source.row.file}"
        )
    return dict(sorted(found.items()))


def _with_slots(source: _Source, model: SentencePieceModel, added: Mapping[int, AddedToken]) -> SentencePieceModel:
    """The model where an added token with the id of a piece stands in its place: no text gives it by its pieces."""
    pieces = list(model.pieces)
    for id, token in added.items():
        if id < len(pieces) and pieces[id].text != token.text:
            pieces[id] = Piece(token.text, pieces[id].score, CONTROL)
    _check_apart(source, {id: piece.text for id, piece in enumerate(pieces)}, added)
    return replace(model, pieces=pieces)


def _check_apart(source: _Source, spellings: Mapping[int, str], added: Mapping[int, AddedToken]) -> None:
    """Refuse two tokens that are spelled alike: the tokenizers library would give both the id of one, and move those
    after it."""
    places: dict[str, int] = {}
    beyond = [(id, token.text) for id, token in added.items() if id not in spellings]
    for id, text in [*spellings.items(), *beyond]:
        if places.setdefault(text, id) != id:
            raise UserError(
                f"{source.folder}: the token {shown(text)} of id {id} is spelled as that of id {places[text]}, which "
                "tokenizer.json cannot have"
            )


def _roles(source: _Source, defaults: Mapping[str, str | None], texts: set[str]) -> dict[str, str | None]:
    """The tokens of BOS, EOS and so on; those of the class, unless the folder may say others."""
    roles: dict[str, str | None] = {**defaults, **source.row.roles}
    if not source.row.fixed:
        told = {name: source.config[name] for name in (*_NAMES, *_OTHERS) if name in source.config}
        roles |= {name: None if value is None else content_of(value) or str(value) for name, value in told.items()}
    for name, text in roles.items():
        if text is not None and text not in texts:
            raise UserError(f"{source.folder / CONFIG}: {name} is {shown(text)}, which is none of its tokens")
    extra = source.config.get("additional_special_tokens") or []
    for text in map(content_of, extra if isinstance(extra, list) else ()):
        if text not in texts and not source.row.fixed:
            raise UserError(
                f"{source.folder / CONFIG}: additional_special_tokens has {shown(text)}, which is none of its tokens"
            )
    return roles


def _entries(
    added: Mapping[int, AddedToken], spellings: Mapping[int, str], roles: Mapping[str, str | None], nfc: bool
) -> list[dict[str, Any]]:
    """`added_tokens`. Of a class that normalizes all of a text first they are found in what that has made of it."""
    named = {text for text in roles.values() if text is not None}
    texts = {token.text for token in added.values()}
    own = {id: AddedToken(id, text) for id, text in spellings.items() if text in named - texts}
    entries = []
    for id, token in sorted({**own, **added}.items()):
        left, right = token.strips
        flags = {"lstrip": left, "rstrip": right, "single_word": token.word, "normalized": nfc}
        entries.append(added_entry(id, token.text, token.special or token.text in named, **flags))
    return entries


def _around(source: _Source, roles: Mapping[str, str | None], ids: Mapping[str, int]) -> dict[str, Any] | None:
    lacking = next((text for text in source.row.prefix if text not in ids), None)
    if lacking is not None:
        raise UserError(f"{source.folder / CONFIG}: added_tokens_decoder has no {lacking}, which its class puts first")
    before: list[str] = list(source.row.prefix)
    after: list[str] = []
    for name, default, texts in (("bos", source.row.add_bos, before), ("eos", False, after)):
        text, asked = roles.get(f"{name}_token"), source.config.get(f"add_{name}_token", default)
        if asked is True and text is not None and not source.row.fixed:
            texts.append(text)
    return tokens_around(*([(ids[text], text) for text in texts] for texts in (before, after)))


def _settings(
    source: Path, config: Mapping[str, Any], content: Mapping[str, Any], roles: Mapping[str, str | None]
) -> dict[str, Any]:
    """What tokenizer_config.json says: nothing of code, which `auto_map` names, and of the class that was."""
    named = {text for text in roles.values() if text is not None}
    others = [token["content"] for token in content["added_tokens"] if token["special"]]
    return {
        "tokenizer_class": FAST_CLASS,
        **{name: config[name] for name in _KEPT if name in config},
        **{name: roles.get(name) for name in _NAMES},
        **{name: text for name, text in roles.items() if name in _OTHERS},
        "additional_special_tokens": [text for text in others if text not in named],
        "clean_up_tokenization_spaces": False,  # decoding would take spaces before commas out
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _check(source: Path, row: TokenizerClass, folder: Path) -> None:
    """Make sure that transformers reads the folder as training does, and text has the ids of the model file."""
    written = load_tokenizer(folder)
    print(f"comparing {written.vocab_size:,} tokens and {row.form} with transformers", file=sys.stderr)
    make_same(written, folder)
    if row.form in (RANKS, MERGES):
        return
    before = SentencePieceTokenizer(source / row.file)
    added = [token["content"] for token in read_object(folder / "tokenizer.json")["added_tokens"]]
    texts = [text for text in generated_texts() if not any(token in text for token in added)]
    for text, ids, others in zip(texts, before.encode_all(texts), written.encode_all(texts), strict=True):
        if ids != others:
            raise UserError(
                f"{source / row.file}: {shown(text)} is {shown(ids)} there, but {shown(others)} in what is written"
            )
