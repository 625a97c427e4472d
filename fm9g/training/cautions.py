"""What of a run is likely a mistake, although it could be meant: warnings, not errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fm9g.convert.tokenizer.of_weights import vocabulary_of
from fm9g.data.record_kinds import unread_texts
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.forecast import CorpusSample, sample_corpus
from fm9g.data.stream.record_formats import TEXT
from fm9g.errors import UserError, about
from fm9g.model.config import ModelConfig
from fm9g.settings import fields
from fm9g.training.inputs import Inputs
from fm9g.training.settings import Settings
from fm9g.training.start import Start

MANY_EPOCHS = 100  # of a dataset, in one run
SMALL_VOCABULARY = 0.5  # of the model's


class Samples(NamedTuple):
    """Samples of the datasets that a run reads, by name."""

    trained: dict[str, CorpusSample]
    held_out: dict[str, CorpusSample]


def sample(inputs: Inputs, documents: int) -> Samples:
    """Up to so many documents of each dataset; a UserError for what is wrong with a record or a transform."""

    def of(corpora: Sequence[Corpus]) -> dict[str, CorpusSample]:
        read = [corpus for corpus in corpora if corpus.entry.share > 0]
        return {corpus.entry.task_name: sample_corpus(corpus, documents) for corpus in read}

    trained = of(inputs.corpora)
    with about(inputs.held_out_by):
        return Samples(trained, {} if inputs.settings.only_run_dataloader else of(inputs.held_out))


def cautions(inputs: Inputs, start: Start, tokens_per_step: float, samples: Samples) -> list[str]:
    """Warnings about a run, given samples of what it reads; [] where nothing looks wrong."""
    settings = inputs.settings
    said = []
    if "lr" not in settings.sources and not settings.only_run_dataloader:
        said.append(
            f"nobody chose lr: {settings.lr:g} is a default that fits few models; give --lr, or lr in a train config"
        )
    if settings.save and settings.save_iters > settings.train_iters and not settings.save_best:
        said.append(
            f"save_iters {settings.save_iters:,} is beyond train_iters {settings.train_iters:,}: nothing is saved "
            "before the end, and a run that is killed is lost"
        )
    if settings.lr_scheduler != "cosine" and settings.drop_begin >= settings.train_iters:
        said.append(
            f"drop_begin {settings.drop_begin:,} is not before train_iters {settings.train_iters:,}: lr never drops"
        )
    if settings.n_gpus % settings.tp_size:
        said.append(
            f"the groups of tp_size {settings.tp_size} reach over nodes of {settings.n_gpus} rank(s): their ranks wait "
            "for the network several times a layer; a tp_size that divides n_gpus keeps them on one node"
        )
    said += _about_scaling(inputs.model_config)
    said += _about_idle_settings(settings)
    said += _about_tokenizer(inputs, start)
    said += _about_held_out(inputs, samples.held_out)
    for corpus in inputs.corpora:
        entry = corpus.entry
        read_plainly = entry.share > 0 and entry.transforms is None and entry.format == TEXT
        unread = corpus.dataset.meta.get("unread_texts", []) if read_plainly else []
        said += [f"dataset {corpus.entry.task_name!r}: {unread_texts(advice)}" for advice in unread]
        if found := samples.trained.get(entry.task_name):
            said += _about_data(inputs, corpus, found, tokens_per_step)
    return said


def _about_scaling(config: ModelConfig) -> list[str]:
    kind, factor = config.rope_scaling_type, config.rope_scaling_factor
    if bool(kind) == (factor != 1) or kind == "longrope":  # whose frequencies have factors of their own
        return []
    said = f"rope_scaling_type {kind!r} with rope_scaling_factor 1" if kind else f"rope_scaling_factor {factor:g} alone"
    return [f"{said} scales nothing: RoPE scaling needs a type and a factor above 1"]


def _about_idle_settings(settings: Settings) -> list[str]:
    """Those that were given and do nothing by themselves."""
    return [
        f"{name} means nothing without {' or '.join(needs)}"
        for name, item in fields(Settings).items()
        if (needs := item.metadata.get("needs"))
        and getattr(settings, name) != item.default
        and not any(getattr(settings, other) for other in needs)
    ]


def _about_data(inputs: Inputs, corpus: Corpus, sample: CorpusSample, tokens_per_step: float) -> list[str]:
    settings, entry, size = inputs.settings, corpus.entry, sample.mean * corpus.records
    said = [f"dataset {entry.task_name!r}: {found}" for found in sample.warnings(inputs.tokenizer, settings.max_length)]
    epochs = settings.train_iters * tokens_per_step * entry.share / size if size else 0.0
    if entry.epochs is not None:
        epochs = min(epochs, entry.epochs)
    if epochs >= MANY_EPOCHS:
        said.append(
            f"dataset {entry.task_name!r} is read about {epochs:,.0f} times in {settings.train_iters:,} "
            "iterations: it is small for its weight, and will be learned by heart"
        )
    return said


def _about_held_out(inputs: Inputs, samples: Mapping[str, CorpusSample]) -> list[str]:
    if inputs.held_out and inputs.settings.only_run_dataloader:
        return ["what is held out is checked and not read: only_run_dataloader reads what is trained on"]
    said = []
    for corpus in inputs.held_out:
        name = f"dataset {corpus.entry.task_name!r} of {inputs.held_out_by}"
        if found := samples.get(corpus.entry.task_name):
            said += [f"{name}: {warning}" for warning in found.warnings(inputs.tokenizer, inputs.settings.max_length)]
    return said


def about_export(inputs: Inputs, start: Start) -> list[str]:
    """Whether a model from scratch has a shape that Hugging Face has no architecture for; its tokenizer is tried in a
    dry run alone, which takes seconds."""
    from fm9g.convert.hf_config import huggingface_config

    if start.weights is not None:
        return []  # these came from somewhere, which may be the reference
    try:
        huggingface_config(inputs.model_config, "BF16", {}, f"config {inputs.settings.config!r}")
    except UserError as error:
        return [f"the trained model could not be converted to Hugging Face: {error}"]
    return []


def _about_tokenizer(inputs: Inputs, start: Start) -> list[str]:
    said = []
    tokenizer, model = inputs.tokenizer, inputs.model_config.vocab_size
    if tokenizer.vocab_size < SMALL_VOCABULARY * model:
        said.append(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model {model:,}: is it this model's "
            "tokenizer? The other rows of its embedding are never used"
        )
    if _vocabulary(start) not in (None, tokenizer.vocabulary):
        said.append(
            f"{inputs.tokenizer_path} is not the tokenizer that the weights of {start.weights} came with: to them, "
            "its ids mean other text"
        )
    return said


def _vocabulary(start: Start) -> str | None:
    """What the ids spell of the tokenizer that a start's weights came with, None where it is not known."""
    return None if start.weights is None else vocabulary_of(start.weights)
