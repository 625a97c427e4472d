"""What of a run is likely a mistake, although it could be meant: warnings, not errors."""

from __future__ import annotations

from collections.abc import Mapping

from fm9g.convert.tokenizer.of_weights import vocabulary_of
from fm9g.data.record_kinds import unread_texts
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.forecast import CorpusSample
from fm9g.data.stream.record_formats import TEXT
from fm9g.training.inputs import Inputs
from fm9g.training.start import Start

MANY_EPOCHS = 100  # of a dataset, in one run
SMALL_VOCABULARY = 0.5  # of the model's


def cautions(inputs: Inputs, start: Start, tokens_per_step: int, samples: Mapping[str, CorpusSample]) -> list[str]:
    """Warnings about a run, given samples of the datasets that it reads, by name; [] where nothing looks wrong."""
    settings = inputs.settings
    said = []
    if "lr" not in settings.sources and not settings.only_run_dataloader:
        said.append(
            f"nobody chose lr: {settings.lr:g} is a default that fits few models; give --lr, or lr in a train config"
        )
    if settings.save and settings.save_iters > settings.train_iters:
        said.append(
            f"save_iters {settings.save_iters:,} is beyond train_iters {settings.train_iters:,}: nothing is saved "
            "before the end, and a run that is stopped is lost"
        )
    said += _about_tokenizer(inputs, start)
    said += _about_held_out(inputs)
    for corpus in inputs.corpora:
        entry = corpus.entry
        read_plainly = entry.share > 0 and entry.transforms is None and entry.format == TEXT
        unread = corpus.dataset.meta.get("unread_texts", []) if read_plainly else []
        said += [f"dataset {corpus.entry.task_name!r}: {unread_texts(advice)}" for advice in unread]
        if sample := samples.get(corpus.entry.task_name):
            said += _about_data(inputs, corpus, sample, tokens_per_step)
    return said


def _about_data(inputs: Inputs, corpus: Corpus, sample: CorpusSample, tokens_per_step: int) -> list[str]:
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


def _about_held_out(inputs: Inputs) -> list[str]:
    if inputs.held_out and inputs.settings.only_run_dataloader:
        return ["eval_dataset is checked and not read: only_run_dataloader reads what is trained on"]
    trained = {entry.path.resolve() for entry in inputs.entries if entry.share > 0}
    return [
        f"dataset {entry.task_name!r} of eval_dataset is {entry.path}, which is trained on too: its loss will not tell "
        "how well the model does on other text"
        for entry in [corpus.entry for corpus in inputs.held_out]
        if entry.path.resolve() in trained
    ]


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
