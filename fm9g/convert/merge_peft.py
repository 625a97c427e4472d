"""A PEFT folder merged into a Hugging Face folder: by the names that both have, so for models of any architecture."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fm9g.convert.adapters import SavedAdapters
from fm9g.convert.hf_config import described
from fm9g.convert.outputs import check_output_folder, new_folder
from fm9g.convert.peft import CONFIG, read_peft
from fm9g.convert.resized_rows import NewRows, new_rows, resized
from fm9g.convert.tokenizer.files import TOKENIZER_FILES, copy_files, training_reads
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError, shown
from fm9g.files import read_json, write_json
from fm9g.lora.merge import merged
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.finite import noting, warn_of
from fm9g.tensors.lazy import DTYPES, LazyTensor, held
from fm9g.tensors.readers import read_huggingface_folder
from fm9g.tensors.writers import parse_size, write_safetensors

SHARD_SIZE = "5GB"
_EMBEDDINGS = (
    *("embed_tokens.weight", "lm_head.weight", "word_embeddings.weight", "wte.weight"),
    *("tok_embeddings.weight", "transformer.output_layer.weight"),  # of InternLM2 and ChatGLM
)
_ROWS = ("vocab_size", "padded_vocab_size")  # ChatGLM's code reads the second
_TIE = "tie_word_embeddings"


def merge_peft(base: Path, tokenizer: Path, peft_dir: Path, target: Path, resize: bool, overwrite: bool) -> int:
    """Write the model in the folder `base` with the adapters in `peft_dir` merged into it, and the tokenizer, to
    `target`; returns the number of adapters.

    `resize`: embeddings and head that have fewer rows than the tokenizer has tokens get more (`_grown`). UserError for
    adapters that are not for this model.
    """
    if target.resolve() in (base.resolve(), peft_dir.resolve(), tokenizer.resolve()):
        raise UserError(f"{target}: is a folder to read from; choose another one to save to")
    check_output_folder(target, overwrite)
    peft, weights = read_peft(peft_dir), dict(read_huggingface_folder(base))
    config = _config(base)
    _check_untied(peft, base, config)
    _note_other_base(peft_dir, base)
    tokens = load_tokenizer(tokenizer).vocab_size
    for layer, adapter in peft.adapters.items():
        name = f"{layer}.weight"
        if name not in weights:
            raise UserError(f"{peft_dir}: has an adapter for {layer}, which {base} does not hold")
        weights[name] = merged(name, weights[name], adapter, peft.kind.scale)
    weights |= _whole(peft.whole, weights, base, peft_dir, resize)
    rows = {name: tensor.shape[0] for name, tensor in weights.items() if _is_table(name)}
    if rows and min(rows.values()) < tokens:
        if not resize:
            raise UserError(
                f"{tokenizer} has {tokens} tokens, {min(rows, key=lambda name: rows[name])} of {base} "
                f"{min(rows.values())} rows: --resize_emb adds rows"
            )
        weights |= _grown({name: weights[name] for name, count in rows.items() if count < tokens}, base, tokenizer)
    size = max([weights[name].shape[0] for name in rows], default=0)
    config = config | {key: size for key in _ROWS if size > config.get(key, size)}
    found = dict[str, str]()
    with new_folder(target, overwrite) as folder:
        copy_files(base, folder, ("generation_config.json", "*.py"))
        copy_files(tokenizer, folder, TOKENIZER_FILES)
        write_json(folder / "config.json", config)
        with ProgressBar(str(target), sum(tensor.nbytes for tensor in weights.values())) as progress:
            write_safetensors(folder, noting(weights, found), parse_size(SHARD_SIZE), progress)
    warn_of(found, target)
    return len(peft.adapters)


def _config(base: Path) -> dict[str, Any]:
    path = base / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(config).__name__}")
    for key in _ROWS:
        if key in config and (type(config[key]) is not int or config[key] < 1):
            raise UserError(f"{path}: {key} must be a whole number above 0, not {shown(config[key])}")
    return config


def _check_untied(peft: SavedAdapters, base: Path, config: Mapping[str, Any]) -> None:
    """Refuse tables that were trained by themselves where the base ties them: one would be lost, or become both."""
    tables = [name for name in (f"{layer}.weight" for layer in peft.adapters) if _is_table(name)]
    trained = [*peft.whole, *tables]
    if trained and _ties(base, config, trained[0]):
        raise UserError(f"{peft.path}: {trained[0]} was trained untied, but {base} ties embedding and head")


def _ties(base: Path, config: Mapping[str, Any], trained: str) -> bool:
    """Whether embedding and head are one; where config.json does not say it, what the model's class takes for it."""
    path = base / "config.json"
    if _TIE in config:
        if not isinstance(config[_TIE], bool):
            raise UserError(f"{path}: {_TIE} must be true or false, not {shown(config[_TIE])}")
        return config[_TIE]
    try:
        return described(base).config.tie_lm_head
    except UserError:  # a model that is not known here
        raise UserError(
            f"{path}: {_TIE} is left out, and what this model takes for it is not known here; {trained} was trained by "
            "itself: write true or false there"
        ) from None


def _is_table(name: str) -> bool:
    """Whether a tensor has a row for each token."""
    return name.endswith(_EMBEDDINGS) or name == "output.weight"  # InternLM2's head


def _note_other_base(peft_dir: Path, base: Path) -> None:
    """Say it where the adapters name a folder that is there and another one: shapes do not tell two models apart."""
    told = read_json(peft_dir / CONFIG).get("base_model_name_or_path")
    if isinstance(told, str) and told and Path(told).is_dir() and Path(told).resolve() != base.resolve():
        print(f"warning: the adapters of {peft_dir} were trained on {told}, not {base}", file=sys.stderr)


def _whole(
    saved: Mapping[str, LazyTensor], weights: Mapping[str, LazyTensor], base: Path, peft_dir: Path, resize: bool
) -> Mapping[str, LazyTensor]:
    """The weights that are saved whole beside adapters; they may have more rows than the base's, where that is said."""
    for name, tensor in saved.items():
        if name not in weights:
            raise UserError(f"{peft_dir}: holds {name}, which {base} does not")
        ours, theirs = weights[name].shape, tensor.shape
        more = _is_table(name) and ours[1:] == theirs[1:] and ours[0] < theirs[0]
        if ours != theirs and not (resize and more):
            hint = ": --resize_emb takes it" if more else ""
            raise UserError(f"{peft_dir}: {name} is {list(theirs)}, in {base} {list(ours)}{hint}")
    return saved


def _grown(tables: Mapping[str, LazyTensor], base: Path, tokenizer: Path) -> dict[str, LazyTensor]:
    """The tables with a row for each token, as far as they have none (the adapter may bring some).

    MedicalGPT's own script has transformers make them, which takes the mean of all rows. The mean of the rows of a
    token's text says more; so it is taken wherever the base's tokenizer is known.
    """
    made, known = {}, True
    tokens = load_tokenizer(tokenizer).vocab_size
    for name, table in tables.items():
        found = _rows_for(tokenizer, base, table.shape[0])
        known = known and found is not None
        made[name] = _with_means(table, tokens) if found is None else resized(name, table, found)
    how = f"those of its text's tokens in {base}" if known else "all there, for its text's tokens are not known"
    print(f"note: {', '.join(tables)} get rows for {tokens} tokens, each the mean of {how}", file=sys.stderr)
    return made


def _rows_for(tokenizer: Path, base: Path, rows: int) -> NewRows | None:
    """Where the rows of tokens that a model of `rows` has none for come from: those of their text's tokens, as the
    base's tokenizer cuts it; None where that is not known, or gives its ids other tokens."""
    new = load_tokenizer(tokenizer)
    if not training_reads(base):
        return None
    old = load_tokenizer(base)
    if any(new.spellings.get(id) != text for id, text in old.spellings.items()) or old.vocab_size > rows:
        return None
    found = new_rows(old, new, rows)
    return NewRows({id: parts for id, parts in found.parts.items() if id >= rows}, found.size)


def _with_means(weight: LazyTensor, rows: int) -> LazyTensor:
    """An embedding with more rows, each the mean of those there."""
    dtype, width = DTYPES[weight.dtype].torch, weight.shape[1]
    whole = torch.cat(list(weight.pieces())).view(weight.shape)
    mean = whole.mean(0, dtype=torch.float32).to(dtype)
    grown = torch.cat([whole, mean.expand(rows - len(whole), width)])
    return held(grown)
