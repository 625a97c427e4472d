"""A PEFT folder merged into a Hugging Face folder: by the names that both have, so for models of any architecture."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from fm9g.convert.outputs import check_output_folder, new_folder
from fm9g.convert.peft import read_peft
from fm9g.convert.tokenizer.files import TOKENIZER_FILES, copy_files
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.files import read_json, write_json
from fm9g.lora.merge import merged
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.lazy import DTYPES, LazyTensor
from fm9g.tensors.readers import read_huggingface_folder
from fm9g.tensors.writers import parse_size, write_safetensors

SHARD_SIZE = "5GB"
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "word_embeddings.weight", "wte.weight")


def merge_peft(base: Path, tokenizer: Path, peft_dir: Path, target: Path, resize: bool, overwrite: bool) -> int:
    """Write the model in the folder `base` with the adapters in `peft_dir` merged into it, and the tokenizer, to
    `target`; returns the number of adapters.

    `resize`: embeddings and head that have fewer rows than the tokenizer has tokens get more, the mean of those that
    are there. UserError for adapters that are not for this model.
    """
    if target.resolve() in (base.resolve(), peft_dir.resolve(), tokenizer.resolve()):
        raise UserError(f"{target}: is a folder to read from; choose another one to save to")
    check_output_folder(target, overwrite)
    peft, weights = read_peft(peft_dir), dict(read_huggingface_folder(base))
    config = read_json(base / "config.json")
    if config.get("tie_word_embeddings") and peft.whole:
        raise UserError(f"{peft_dir}: {next(iter(peft.whole))} was trained untied, but {base} ties embedding and head")
    tokens = load_tokenizer(tokenizer).vocab_size
    for layer, adapter in peft.adapters.items():
        name = f"{layer}.weight"
        if name not in weights:
            raise UserError(f"{peft_dir}: has an adapter for {layer}, which {base} does not hold")
        weights[name] = merged(name, weights[name], adapter, peft.kind.scale)
    weights |= _whole(peft.whole, weights, base, peft_dir, resize)
    rows = {name: tensor.shape[0] for name, tensor in weights.items() if name.endswith(_EMBEDDINGS)}
    if rows and min(rows.values()) < tokens:
        if not resize:
            raise UserError(
                f"{tokenizer} has {tokens} tokens, {min(rows, key=lambda name: rows[name])} of {base} "
                f"{min(rows.values())} rows: --resize_emb adds rows"
            )
        weights |= {name: _with_rows(weights[name], tokens) for name, count in rows.items() if count < tokens}
        print(f"note: {', '.join(rows)} get rows for {tokens} tokens, each the mean of those there", file=sys.stderr)
    if (size := max([weights[name].shape[0] for name in rows], default=0)) > config.get("vocab_size", size):
        config = config | {"vocab_size": size}
    with new_folder(target, overwrite) as folder:
        copy_files(base, folder, ("generation_config.json", "*.py"))
        copy_files(tokenizer, folder, TOKENIZER_FILES)
        write_json(folder / "config.json", config)
        with ProgressBar(str(target), sum(tensor.nbytes for tensor in weights.values())) as progress:
            write_safetensors(folder, weights, parse_size(SHARD_SIZE), progress)
    return len(peft.adapters)


def _whole(
    saved: Mapping[str, LazyTensor], weights: Mapping[str, LazyTensor], base: Path, peft_dir: Path, resize: bool
) -> Mapping[str, LazyTensor]:
    """The weights that are saved whole beside adapters; they may have more rows than the base's, where that is said."""
    for name, tensor in saved.items():
        if name not in weights:
            raise UserError(f"{peft_dir}: holds {name}, which {base} does not")
        ours, theirs = weights[name].shape, tensor.shape
        if ours != theirs and not (resize and ours[1:] == theirs[1:]):
            hint = ": --resize_emb takes it" if ours[1:] == theirs[1:] else ""
            raise UserError(f"{peft_dir}: {name} is {list(theirs)}, in {base} {list(ours)}{hint}")
    return saved


def _with_rows(weight: LazyTensor, rows: int) -> LazyTensor:
    """An embedding with more rows, each the mean of those there."""
    dtype, width = DTYPES[weight.dtype].torch, weight.shape[1]
    whole = torch.cat(list(weight.pieces())).view(weight.shape)
    mean = whole.mean(0, dtype=torch.float32).to(dtype)
    grown = torch.cat([whole, mean.expand(rows - len(whole), width)])
    return LazyTensor(weight.dtype, (rows, width), lambda: iter([grown.flatten()]))
