"""Weights in our names -> a Hugging Face folder that transformers loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fm9g.checkpoint.named import find_weights
from fm9g.convert.adapters import SavedAdapters, with_adapters
from fm9g.convert.chat_template import install_template, trained_template
from fm9g.convert.families.family import Family
from fm9g.convert.hf_config import (
    described,
    differences,
    family_for,
    huggingface_config,
    with_checkpoint_facts,
)
from fm9g.convert.layouts import converted
from fm9g.convert.matching import match
from fm9g.convert.outputs import check_output_folder, new_folder
from fm9g.convert.tokenizer.check import check_export, check_reference
from fm9g.convert.tokenizer.files import REFERENCE_FILES, complete_tokenizer, copy_files, install_tokenizer
from fm9g.errors import UserError
from fm9g.files import require_file, write_json
from fm9g.lora.told import check_base
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import EMBEDDING
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.fingerprint import fingerprint
from fm9g.tensors.finite import noting, warn_of
from fm9g.tensors.forms import beside
from fm9g.tensors.lazy import as_dtype, main_dtype
from fm9g.tensors.readers import read_weights
from fm9g.tensors.writers import parse_size, write_safetensors

DEFAULT_SHARD_SIZE = "5GB"

# Given the new folder and the checkpoint's dtype, puts everything but weights there and returns config.json.
Companions = Callable[[Path, str], dict[str, Any]]


def with_reference(
    reference: Path,
    checkpoint: Path,
    target: Path,
    dtype: str | None = None,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    overwrite: bool = False,
    template: str | None = None,
    adapters: SavedAdapters | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write `checkpoint` to the folder `target` with config and tokenizer of the Hugging Face folder `reference`.

    It is a file of weights, or the folder of a checkpoint or a run, and compared with its manifest (`find_weights`).
    The reference's config must describe the checkpoint: its tensors, and the .json beside it where there
    is one. `dtype` is a key of DTYPES; None keeps each tensor's own. `template`: the chat template to take along; None
    for the one that the checkpoint was trained with, if that is known, or else the folder's own. `adapters` are merged
    into the weights. `tokenizer`: the one of a model that got more rows than the reference has; None for the
    reference's.
    """
    if target.resolve() == reference.resolve():
        raise UserError(f"{target}: is the reference folder itself; choose another folder to save to")
    config_path, values, family, config = described(reference)
    if tokenizer is None:
        check_reference(reference)
    checkpoint = _find(checkpoint, target, max_shard_size, overwrite)
    config = _agreed(checkpoint, config, config_path)
    values, config = _with_rows(values, config, family, checkpoint, config_path, tokenizer)

    def companions(folder: Path, kind: str) -> dict[str, Any]:
        if tokenizer is None:
            copy_files(reference, folder, REFERENCE_FILES)
            complete_tokenizer(folder)
        else:
            copy_files(reference, folder, ("generation_config.json", "*.py"))
            install_tokenizer(tokenizer, folder, config.vocab_size)
        return with_checkpoint_facts(values, config, kind, family)

    _write(
        config, family, tokenizer or reference, checkpoint, target, dtype, max_shard_size, overwrite, companions,
        template, adapters,
    )  # fmt: skip


def _with_rows(
    values: dict[str, Any],
    config: ModelConfig,
    family: Family,
    checkpoint: Path,
    config_path: Path,
    tokenizer: Path | None,
) -> tuple[dict[str, Any], ModelConfig]:
    """A reference's config for a checkpoint that has more rows of embeddings; these need a tokenizer of their own."""
    table = read_weights(require_file(checkpoint)).get(EMBEDDING)
    if table is None or table.shape[0] <= config.vocab_size:
        return values, config
    rows = table.shape[0]
    if tokenizer is None:
        name = next(iter(family.rows(config)))
        raise UserError(
            f"{checkpoint}: has {rows} rows of embeddings, {name} is {config.vocab_size} in {config_path}: take "
            "that model's own folder, or give the tokenizer of more tokens, too (--tokenizer)"
        )
    config = dataclasses.replace(config, vocab_size=rows)
    return {**values, **family.rows(config)}, config


def from_scratch(
    model_config: Path,
    tokenizer: Path,
    checkpoint: Path,
    target: Path,
    dtype: str | None = None,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    overwrite: bool = False,
    template: str | None = None,
    adapters: SavedAdapters | None = None,
) -> None:
    """As with_reference, for a model trained from scratch: a model_configs/*.json and a tokenizer instead."""
    config = ModelConfig.from_json(model_config)
    checkpoint = _find(checkpoint, target, max_shard_size, overwrite)
    _agreed(checkpoint, config, model_config)

    def companions(folder: Path, kind: str) -> dict[str, Any]:
        token_ids = install_tokenizer(tokenizer, folder, config.vocab_size)
        return huggingface_config(config, kind, token_ids, str(model_config))

    _write(
        config,
        family_for(config, str(model_config)),
        tokenizer,
        checkpoint,
        target,
        dtype,
        max_shard_size,
        overwrite,
        companions,
        template,
        adapters,
    )


def _find(checkpoint: Path, target: Path, max_shard_size: str, overwrite: bool) -> Path:
    """The file of the weights, every byte of which is compared: what else is refused soon is refused before."""
    parse_size(max_shard_size)
    check_output_folder(target, overwrite)
    return find_weights(checkpoint)


def _agreed(checkpoint: Path, config: ModelConfig, config_path: Path) -> ModelConfig:
    """`config`, which the one beside the weights must not contradict: that knows what tensors do not show, RoPE, eps
    and muP; and for texts of which length longrope was trained, which a config.json does not say."""
    sibling = beside(checkpoint, ".json")
    if not sibling.exists():
        return config
    ours = ModelConfig.from_json(sibling)
    if config.reaches_further:
        config = dataclasses.replace(config, max_length=ours.max_length)
    differing = differences(ours, config)
    if differing:
        raise UserError(f"{sibling} and {config_path} describe different models: {'; '.join(differing)}")
    return config


def _write(
    config: ModelConfig,
    family: Family,
    tokenizer: Path,
    checkpoint: Path,
    target: Path,
    dtype: str | None,
    max_shard_size: str,
    overwrite: bool,
    companions: Companions,
    template: str | None,
    adapters: SavedAdapters | None,
) -> None:
    require_file(checkpoint)
    template = template or trained_template(adapters.path if adapters else checkpoint)
    groups, found_tensors = match(config, family.layouts, read_weights(checkpoint), "ours", str(checkpoint))
    if adapters is not None:
        check_base(adapters.path, fingerprint(checkpoint), checkpoint)
        found_tensors = with_adapters(found_tensors, adapters, checkpoint, dtype)
    sources = {name: as_dtype(name, tensor, dtype) for name, tensor in found_tensors.items()}
    tensors = dict(converted(groups, sources, "ours"))
    total, found = sum(tensor.nbytes for tensor in tensors.values()), dict[str, str]()
    with new_folder(target, overwrite) as folder:
        values = companions(folder, main_dtype(list(tensors.values())))
        write_json(folder / "config.json", values)
        if template:
            install_template(template, folder)
        check_export(tokenizer, folder, checkpoint)
        with ProgressBar(str(target), total) as progress:
            write_safetensors(folder, noting(tensors, found), parse_size(max_shard_size), progress)
    warn_of(found, target)
