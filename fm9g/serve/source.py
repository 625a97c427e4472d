"""What a person names as a model: its weights in our names, and which tokenizer and chat template go with them.

Weights in our names with their .json beside them, the folder of a checkpoint or of a run (its latest one), or a Hugging
Face folder. A checkpoint that holds adapters alone is taken with the weights that it was trained from; adapters may
also be named beside a model, as a file, a checkpoint or a PEFT folder. They are merged into the weights as these are
read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.checkpoint.named import find_weights, holds_checkpoints
from fm9g.convert.adapters import SavedAdapters, read_adapters, with_adapters
from fm9g.convert.chat_template import trained_template
from fm9g.convert.families import FAMILIES
from fm9g.convert.families.family import Family
from fm9g.convert.hf_config import described, family_with
from fm9g.convert.layouts import Layouts, converted, own_layouts
from fm9g.convert.matching import match
from fm9g.convert.peft import CONFIG as PEFT_CONFIG
from fm9g.convert.peft import in_our_names, read_peft
from fm9g.convert.saved_run import json_object
from fm9g.convert.tokenizer.of_weights import architecture_of, vocabulary_of
from fm9g.environment import tell
from fm9g.errors import UserError
from fm9g.lora.told import check_base, told_of
from fm9g.model.config import ModelConfig
from fm9g.tensors.fingerprint import fingerprint, fingerprint_of
from fm9g.tensors.forms import beside, is_safetensors
from fm9g.tensors.lazy import LazyTensor
from fm9g.tensors.readers import read_huggingface_folder, read_weights

_WHOLE = "a whole Hugging Face model, and no adapters: name it as --model"


@dataclass(frozen=True)
class Source:
    """`tokenizer` and `template` are None where nothing tells them; `where` is what messages call the model, and
    `vocabulary` the Tokenizer.vocabulary of the tokenizer that it came with, if that is known. `layouts` are those of
    the family in whose names a PEFT folder for the model is; None where that is to be found out."""

    config: ModelConfig
    layouts: Layouts | None
    tensors: Mapping[str, LazyTensor]
    tokenizer: Path | None
    template: str | None
    where: Path
    vocabulary: str | None = None


def find_source(model: Path, adapter: Path | None, dtype: str | None = None) -> Source:
    """What `model` holds, with `adapter` merged into it, in `dtype` (a key of DTYPES; None: its own).

    UserError where it is no model, or the adapter none for it.
    """
    if (model / "config.json").is_file():
        source, weights = _hugging_face(model), None
    else:
        weights = _weights_in(model)
        if json_object(weights.with_name("state.json")).get("adapters"):
            return _of_adapters(weights, model, adapter, dtype)
        source = _ours(weights)
    return source if adapter is None else _with_adapter(source, weights, adapter, dtype)


def _hugging_face(folder: Path) -> Source:
    *_, family, config = described(folder)
    groups, found = match(config, family.layouts, read_huggingface_folder(folder), "huggingface", str(folder))
    return Source(config, family.layouts, dict(converted(groups, found, "huggingface")), folder, None, folder)


def _ours(weights: Path) -> Source:
    told = beside(weights, ".json")
    if not told.is_file():
        raise UserError(f"{told} is missing: it is to say what model {weights.name} is (a file of model_configs/)")
    config = ModelConfig.from_json(told)
    tensors = read_weights(weights)
    if any(".lora." in name for name in tensors):
        raise UserError(f"{weights}: holds adapters: name the model that they are for, and this as --adapter")
    _, found = match(config, own_layouts(config), tensors, "ours", str(weights))
    template, vocabulary = trained_template(weights), vocabulary_of(weights)
    return Source(config, None, found, _tokenizer_of(weights), template, weights, vocabulary)


def _weights_in(path: Path) -> Path:
    """The file of weights in our names that `path` is, or that is in it, compared with its manifest."""
    if not path.exists():
        raise UserError(
            f"{path}: no such model (a file of weights, a checkpoint's folder, or a Hugging Face folder; nothing is "
            "downloaded)"
        )
    of_others = any((path.parent / name).is_file() for name in (PEFT_CONFIG, "config.json"))
    if path.suffix in (".bin", ".gguf") or (is_safetensors(path) and of_others):
        raise UserError(f"{path}: name its folder, which says what model it is")
    for name, what in ((PEFT_CONFIG, "a PEFT folder: name it as --adapter, beside its model"), ("config.json", _WHOLE)):
        if (path / name).is_file():
            raise UserError(f"{path}: {what}")
    if path.is_dir() and not holds_checkpoints(path):
        raise UserError(f"{path}: no model: neither config.json (Hugging Face), nor state.json (a checkpoint) is there")
    return find_weights(path)


def _of_adapters(adapters: Path, model: Path, adapter: Path | None, dtype: str | None) -> Source:
    """A checkpoint with adapters alone, with the weights that its run began with."""
    if adapter is not None:
        raise UserError(f"{model}: holds adapters, and --adapter names others: name the model that they are for")
    base = _settings_of(adapters).get("pretrained_model")
    if not base or not Path(base).exists():
        wanted = f"{base} (pretrained_model of its run)" if base else "the weights of its run"
        raise UserError(f"{model}: holds adapters, and {wanted} is not there: name the model, and this as --adapter")
    tell(f"note: {model} holds adapters for {base}, which they are merged into")
    weights = _weights_in(Path(base))
    return _merged(_ours(weights), weights, adapters, dtype)


def _with_adapter(source: Source, weights: Path | None, adapter: Path, dtype: str | None) -> Source:
    """A model with adapters that are named; `weights`: its file, if it is in our names."""
    is_peft = (adapter / PEFT_CONFIG).is_file()
    return _merged(source, weights, adapter if is_peft else _weights_in(adapter), dtype)


def _merged(source: Source, weights: Path | None, path: Path, dtype: str | None) -> Source:
    """A model with the adapters of a file or a PEFT folder; by its `weights` it is known whether they are for it."""
    peft = (path / PEFT_CONFIG).is_file()
    saved = _peft(path, source) if peft else read_adapters(path, None)
    if not peft:
        _check_base(path, source, weights)
    tensors = with_adapters(source.tensors, saved, source.where, dtype)
    tokenizer, template = (None, None) if peft else (_tokenizer_of(path), trained_template(path))
    return dataclasses.replace(
        source, tensors=tensors, tokenizer=tokenizer or source.tokenizer, template=template or source.template
    )


def _check_base(adapters: Path, source: Source, weights: Path | None) -> None:
    """Refuse adapters for another file; of a folder it is said, since one may be converted to another dtype."""
    if weights is not None:
        check_base(adapters, fingerprint(weights), weights)
        return
    told = told_of(adapters)
    if told is not None and told.base not in (None, fingerprint_of(source.tensors)):
        tell(
            f"warning: {adapters}: adapters for weights that are not those of {source.where}, bit for bit: good if "
            "they were converted from there to another dtype, and else not"
        )


def _peft(folder: Path, source: Source) -> SavedAdapters:
    return in_our_names(read_peft(folder), source.config, source.layouts or _family_of(source).layouts)


def _family_of(source: Source) -> Family:
    """In whose names a PEFT folder for weights of ours is: the architecture's that they were converted from, where a
    note says it, or else the first's that has their features."""
    noted = architecture_of(source.where)
    known = [family for family in FAMILIES if family.architecture == noted]
    return known[0] if known else family_with(source.config, str(beside(source.where, ".json")))


def _tokenizer_of(weights: Path) -> Path | None:
    """The tokenizer of the run that saved weights, or of the folder that they were converted from."""
    note = json_object(beside(weights, ".tokenizer.json")).get("path")
    named = _settings_of(weights).get("tokenizer_path") or note
    if isinstance(named, str) and Path(named).exists():
        return Path(named)
    if named:
        tell(f"note: the tokenizer of {weights} was {named}, which is not there from here")
    return None


def _settings_of(weights: Path) -> dict[str, Any]:
    found = json_object(weights.with_name("state.json")).get("settings")
    return found if isinstance(found, dict) else {}
