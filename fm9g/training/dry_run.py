"""What --dry-run reports: sizes, memory and steps, without a process group or a GPU."""

from __future__ import annotations

from collections.abc import Mapping

from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.dry_read import fill
from fm9g.data.stream.forecast import SAMPLED_DOCUMENTS, CorpusSample, describe, endings, never_ends, places_of_a_pass
from fm9g.data.stream.loader import LANES_PER_ROW
from fm9g.errors import UserError
from fm9g.lora.layers import LORA_A
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import count, num_parameters
from fm9g.settings import told_lines
from fm9g.training.cautions import cautions, sample
from fm9g.training.epochs import whole_plan
from fm9g.training.inputs import Inputs
from fm9g.training.memory import about_checkpoints, memory_per_rank
from fm9g.training.overlap import check_overlap
from fm9g.training.schedule import FLOOR, drop_begin
from fm9g.training.settings import Settings
from fm9g.training.start import planned_start
from fm9g.training.start_check import check_start, trained_beside


def _describe_model(config: ModelConfig, settings: Settings) -> str:
    said = f"{num_parameters(config):,} parameters, {config.dtype}, {config.num_layers} layers"
    adapters = trained_beside(settings, config)
    layers = sum(adapter.name.endswith(LORA_A) for adapter in adapters)
    return said + (f"; {count(adapters):,} of adapters in {layers} layers are trained" if adapters else "")


def _describe_ranks(settings: Settings) -> str:
    ranks = f"{settings.ranks} ranks"
    return ranks if settings.tp_size == 1 else f"{ranks} in groups of tp_size {settings.tp_size}"


def report(inputs: Inputs) -> str:
    """Check what can be checked and describe the run; a UserError where something is wrong."""
    settings, config = inputs.settings, inputs.model_config
    folder = inputs.folder
    folder.check_writable()
    start = planned_start(settings, folder)
    check_start(start, settings, config)
    rows = whole_plan(settings).rows_per_step
    places = rows * settings.max_length
    lines = [
        f"model        {_describe_model(config, settings)}",
        f"tokenizer    {inputs.tokenizer.vocab_size:,} tokens of the model's {config.vocab_size:,}",
        f"step         {rows} rows x {settings.max_length} = {places:,} tokens "
        f"({_describe_ranks(settings)} x batch_size {settings.batch_size} x grad_accum {settings.grad_accum})",
        f"run          {settings.train_iters:,} iterations, {settings.train_iters * places:,} tokens",
        f"start        {start}",
        f"optimizer    {_describe_optimisation(settings)}",
        f"output       {folder.checkpoints}",
        f"data         {LANES_PER_ROW * rows} lanes",
    ]
    samples = sample(inputs, SAMPLED_DOCUMENTS)
    tokens = places * fill(inputs.corpora, whole_plan(settings))
    lines += _describe_data(inputs, samples.trained, tokens)
    lines += _describe_evaluation(inputs, samples.held_out, places)
    estimate = memory_per_rank(config, settings, settings.ranks)
    lines.append(f"memory       about {sum(estimate.values()) / 1e9:.2f} GB per rank:")
    lines += [f"             {size / 1e9:9.2f} GB {use}" for use, size in estimate.items()]
    lines.append(f"checkpoints  {about_checkpoints(config, settings, folder.checkpoints)}")
    lines.append("settings")
    lines += [f"  {said}" for said in told_lines(settings)]
    warnings = check_overlap(inputs, None) + cautions(inputs, start, tokens, samples) + _unexportable(inputs)
    lines += [f"warning: {said}" for said in warnings]
    return "\n".join([*lines, "dry run: everything checked, nothing started"])


def _describe_data(inputs: Inputs, samples: Mapping[str, CorpusSample], tokens: float) -> list[str]:
    """What a run reads of each dataset, and when they end; `tokens` are those of a step, without room that is left."""
    settings, lines = inputs.settings, []
    for corpus in inputs.corpora:
        sample = samples.get(corpus.entry.task_name)
        if sample is None:
            lines.append(f"  {corpus.entry.task_name}: weight 0, not read")
        else:
            lines.append(_describe_dataset(corpus, sample, tokens, settings.train_iters))
            lines += _describe_special_tokens(corpus, sample)
    found = endings(inputs.corpora, tokens, [0] * len(inputs.corpora), 0, samples)
    said = describe(found, settings.train_iters, never_ends(inputs.corpora), settings.stop_when_end)
    return lines + [f"  {line}" for line in said]


def _describe_evaluation(inputs: Inputs, samples: Mapping[str, CorpusSample], places: int) -> list[str]:
    """When a run evaluates, and what one evaluation reads; `places` are the tokens of a step."""
    settings = inputs.settings
    if not samples:
        return []
    names, tokens = ", ".join(samples), places_of_a_pass(inputs.held_out, samples)
    if settings.eval_iters:
        tokens = min(tokens, settings.eval_iters * places)
    return [
        f"evaluation   every {settings.eval_interval:,.0f} iterations, {names}: about {tokens:,.0f} tokens each time, "
        f"as many as {tokens / places:,.1f} steps train on"
    ]


def _unexportable(inputs: Inputs) -> list[str]:
    from fm9g.convert.tokenizer.check import try_export  # imports transformers, which takes seconds

    try:
        try_export(inputs.tokenizer_path, inputs.model_config, f"config {inputs.settings.config!r}")
    except UserError as error:
        return [f"the trained model could not be converted to Hugging Face with its tokenizer: {error}"]
    return []


def _describe_optimisation(settings: Settings) -> str:
    """Peak learning rate, warm-up, and what comes after it."""
    said = f"peak lr {settings.lr:g} after {settings.iterations('warmup_iters'):,} iterations of warm-up, "
    if settings.lr_scheduler == "cosine":
        return said + f"then cosine to {FLOOR * settings.lr:g} at {settings.train_iters:,}"
    drop = settings.iterations("drop_iters")
    return said + f"{settings.lr_scheduler}: flat, and falling from {drop_begin(settings):,} on ({drop:,} drop_iters)"


def _describe_dataset(corpus: Corpus, sample: CorpusSample, tokens: float, train_iters: int) -> str:
    entry, mean = corpus.entry, sample.mean
    total = mean * corpus.records
    if not total:
        return f"  {entry.task_name}: {entry.share:.1%}, {corpus.records:,} records, none of those sampled has tokens"
    doubt = f" ± {sample.standard_error:,.1f}" if sample.standard_error else ""
    steps = total / (tokens * entry.share)
    ends = "repeats" if entry.epochs is None else f"ends after {entry.epochs * steps:,.0f} steps"
    return (
        f"  {entry.task_name}: {entry.share:.1%}, {corpus.records:,} records, about {total:,.0f} tokens "
        f"({mean:,.0f}{doubt} each); {steps:,.0f} steps per epoch, {train_iters / steps:.2f} epochs in this run; {ends}"
    )


def _describe_special_tokens(corpus: Corpus, sample: CorpusSample) -> list[str]:
    """What becomes of spellings of special tokens in a sample of a dataset; [] where there are none to speak of."""
    counts = corpus.special_counts(sample.examples)
    if not (corpus.entry.special_tokens or counts.plain or counts.tokens):
        return []
    return [
        f"    special tokens spelled in {len(sample.examples):,} sampled records: {counts.plain:,} are plain text, "
        f"{counts.tokens:,} are tokens (special_tokens {str(corpus.entry.special_tokens).lower()})"
    ]
