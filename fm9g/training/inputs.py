"""Everything a run reads, opened and checked before the first process group or GPU allocation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fm9g.checkpoint.folder import RunFolder
from fm9g.checkpoint.named import find_weights, size_fault
from fm9g.commandline import command
from fm9g.data.chat.render import Learned
from fm9g.data.stream.corpus import Corpus, open_corpora
from fm9g.data.stream.mixture import INFORMATIVE, MixtureEntry, read_mixture
from fm9g.data.stream.view import View, trained
from fm9g.data.stream.view import held_out as held_out_part
from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer
from fm9g.environment import REPOSITORY
from fm9g.errors import UserError, shown
from fm9g.files import user_path
from fm9g.lora.layers import matching, whole_modules
from fm9g.lora.opendelta import find_opendelta
from fm9g.model.config import ModelConfig
from fm9g.model.cut import check_cut
from fm9g.settings import DEFAULT
from fm9g.training.sample_prompts import read_prompts
from fm9g.training.settings import COMMAND_LINE, TABLE, Settings, config_paths

_REPOSITORY_APP = REPOSITORY / "apps" / "fm9g_7b"
# beside it relative paths are also looked for, and in its data/ a run writes; an installed fm9g has none
APP = _REPOSITORY_APP if _REPOSITORY_APP.is_dir() else Path.cwd()


@dataclass
class Inputs:
    """A run's settings and what they point to, its datasets opened once for all that reads them."""

    settings: Settings
    model_config: ModelConfig
    tokenizer: Tokenizer
    tokenizer_path: Path
    corpora: list[Corpus]
    held_out: list[Corpus]  # of the evaluation, each read once
    sample_prompts: list[str]
    app: Path

    @property
    def held_out_by(self) -> str:
        """The setting that says what is held out."""
        return "eval_dataset" if self.settings.eval_dataset else "validation_split"

    @property
    def output_dir(self) -> Path:
        """Where the run writes."""
        given = self.settings.output_dir
        return user_path(given) if given else self.app / "data"

    @property
    def folder(self) -> RunFolder:
        """The run's own folders in it."""
        return RunFolder(self.output_dir, self.settings.model_unique, self.settings.exp_group)


def find(settings: Settings, app: Path, value: str) -> Path:
    """The path a setting means: as it is, or (unless `local`) relative to the app or the repository."""
    path = user_path(value)
    if settings.local or path.is_absolute() or path.exists():
        return path
    beside = [folder / path for folder in (app, REPOSITORY) if (folder / path).exists()]
    return beside[0] if beside else path


def _weights_at(path: Path) -> Path:
    """The file of weights that `path` names. What is wrong with it is said when it is read: a run that goes on from a
    checkpoint of its own may need it no more."""
    with contextlib.suppress(UserError):
        return find_weights(path, size_fault)
    return path


def mixture_path(settings: Settings, app: Path, value: str) -> Path:
    """The mixture file that `value` means: a path, or the name of one in dataset_config/."""
    if value.endswith(".json") or os.path.isabs(value):
        return find(settings, app, value)
    return find(settings, app, f"dataset_config/{value}.json")


def open_inputs(settings: Settings, app: Path) -> Inputs:
    """Open and check all inputs; a UserError says what is wrong with which."""
    config = read_model_config(settings)
    check_cut(config, settings.tp_size)
    settings = fit_length(settings, config)
    tokenizer_path = find(settings, app, settings.tokenizer_path)
    if not tokenizer_path.exists():
        started = settings.pretrained_model or settings.resume_ckpt
        hint = "give the one that the weights came with" if started else f"{command('tokenizer')} makes one"
        raise UserError(f"tokenizer_path: {tokenizer_path}: no such file or folder ({hint})")
    tokenizer = load_tokenizer(tokenizer_path)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{tokenizer_path}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{config.vocab_size} (vocab_size of config {settings.config!r})"
        )
    if settings.lora:
        matching(config, settings.layers_in(config))
        whole_modules(config, settings.modules_to_save or [])
        find_opendelta()
    entries = _read_named(settings, app, "dataset_config")
    held_out = _read_held_out(settings, app)
    learned = Learned(settings.train_on_prompt, settings.mask_history)
    opening = (tokenizer, settings.seed, settings.max_length, learned)
    corpora = open_corpora(entries, *opening, trained(settings.validation_split, settings.max_train_samples))
    corpora += open_corpora(held_out, *opening, View(limit=settings.max_eval_samples))
    for corpus in corpora:
        _check_dataset(corpus)
    if settings.validation_split:
        corpora += _split_off(settings, corpora[: len(entries)])
    weights, adapters = (
        value and str(_weights_at(find(settings, app, value)))
        for value in (settings.pretrained_model, settings.pretrained_lora)
    )
    settings = dataclasses.replace(settings, pretrained_model=weights, pretrained_lora=adapters)
    prompts = read_prompts(settings.sample_prompts, lambda value: find(settings, app, value))
    count = len(entries)
    if settings.counts_epochs or settings.eval_interval < 1:
        from fm9g.training.epochs import fit_epochs, fit_interval  # they import torch, which takes seconds

        settings = fit_interval(fit_epochs(settings, corpora[:count]), corpora[:count])
    return Inputs(settings, config, tokenizer, tokenizer_path, corpora[:count], corpora[count:], prompts, app)


def _split_off(settings: Settings, corpora: list[Corpus]) -> list[Corpus]:
    """What validation_split holds out of these; of a small dataset it may be nothing, which is said."""
    part = held_out_part(settings.validation_split, settings.max_eval_samples)
    read = [corpus for corpus in corpora if corpus.entry.share > 0]
    some = [corpus for corpus in read if part.count(len(corpus.dataset))]
    for corpus in read if some else []:
        if not part.count(len(corpus.dataset)):
            print(
                f"warning: dataset {corpus.entry.task_name!r}: validation_split {settings.validation_split:g} holds "
                f"none of its {len(corpus.dataset):,} records out, so it is not evaluated on",
                file=sys.stderr,
            )
    return [corpus.viewed(part, dataclasses.replace(corpus.entry, allow_repeat=False)) for corpus in some or read]


def _read_named(settings: Settings, app: Path, setting: str) -> list[MixtureEntry]:
    """The entries of the mixture that a setting names."""
    value = getattr(settings, setting)
    path = mixture_path(settings, app, value)
    if path.is_file():
        return read_mixture(path)
    there = sorted(file.stem for file in path.parent.glob("*.json")) if not path.exists() else []
    hint = f"; there are {', '.join(there[:8])}" if there else ""
    raise UserError(f"{setting} {shown(value)}: {path}: {'not a file' if path.exists() else 'no such file'}{hint}")


def _read_held_out(settings: Settings, app: Path) -> list[MixtureEntry]:
    """The entries of the evaluation's mixture, each to be read once; [] without one."""
    if not settings.eval_dataset:
        return []
    entries = _read_named(settings, app, "eval_dataset")
    return [dataclasses.replace(entry, allow_repeat=False) for entry in entries]


def read_model_config(settings: Settings) -> ModelConfig:
    """The model config, with the settings that override it."""
    path = config_paths(settings.config)[0]
    config = ModelConfig.from_json(path)
    if settings.eps is not None:
        config = dataclasses.replace(config, eps=settings.eps)
    return config


def fit_length(settings: Settings, config: ModelConfig) -> Settings:
    """Settings with the max_length that fits the model.

    Where nobody gave one it is the default, or all positions of a model that has fewer. A train config may serve models
    of several lengths, so its max_length gives way to a shorter model's too. What this run was told is never changed.
    """
    given, positions = settings.sources.get("max_length"), config.max_length
    if settings.max_length > positions and given in (COMMAND_LINE, TABLE):
        raise UserError(
            f"max_length {settings.max_length} is beyond the {positions} positions of "
            f"{config_paths(settings.config)[0]}: lower it, or raise max_length there with a rope_scaling_type"
        )
    if given is not None and settings.max_length <= positions:
        return settings
    length = min(settings.max_length, positions)
    source = f"the model has {positions:,} positions, {given or DEFAULT} {settings.max_length:,}"
    return dataclasses.replace(settings, max_length=length, sources={**settings.sources, "max_length": source})


def _check_dataset(corpus: Corpus) -> None:
    entry, meta = corpus.entry, corpus.dataset.meta
    name = f"dataset {entry.task_name!r} ({entry.path})"
    corpus.check_texts()
    actual = {
        "nlines": len(corpus.dataset),
        "ave_tokens_per_line": meta.get("avg_token_per_line"),
        "total_tokens": (meta.get("avg_token_per_line") or 0) * len(corpus.dataset) or None,
    }
    for key in INFORMATIVE:
        declared, found = entry.declared.get(key), actual[key]
        if declared is not None and found is not None and abs(declared - found) > 0.01 * found:
            print(f"warning: {name}: the mixture says {key} {declared:g}, its meta.json {found:g}", file=sys.stderr)
