"""What every run does, with or without a model: its folder, its data, its progress, its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fm9g import runtime
from fm9g.checkpoint.writer import CheckpointWriter
from fm9g.commandline import command
from fm9g.data.record import record_name
from fm9g.data.stream.continuation import Generations, extend_generations
from fm9g.data.stream.digest import StreamDigest
from fm9g.data.stream.document import Corpus
from fm9g.data.stream.forecast import describe, endings, sample_corpus
from fm9g.data.stream.loader import StepBatch
from fm9g.errors import UserError
from fm9g.files import read_json
from fm9g.model.decoder import Decoder
from fm9g.settings import changed, fields, told_lines
from fm9g.training import stream
from fm9g.training.cautions import cautions
from fm9g.training.inputs import Inputs
from fm9g.training.objective import StepCounts, count_step
from fm9g.training.run_folder import RunFolder
from fm9g.training.settings import Settings
from fm9g.training.start import start_from
from fm9g.training.throughput import step_flops

_SAMPLED_AT_START = 64  # documents of each dataset, by rank 0: a fraction of a second


def log(message: str) -> None:
    """Print a line on rank 0."""
    if runtime.rank() == 0:
        print(message, flush=True)


@dataclass
class Progress:
    """What a run has done, in its checkpoints."""

    step: int = 0
    tokens: int = 0
    task_tokens: dict[str, int] = field(default_factory=dict)
    task_documents: dict[str, int] = field(default_factory=dict)
    task_skipped: dict[str, int] = field(default_factory=dict)  # records that gave no document
    task_damaged: dict[str, int] = field(default_factory=dict)  # those among them whose bytes have changed
    stream_sha256: str = bytes(32).hex()


class Run:
    """A training run, or with only_run_dataloader the data stream of one."""

    kind = "training"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.settings = inputs, inputs.settings
        self.folder = RunFolder(inputs.output_dir, self.settings.model_unique, self.settings.exp_group)
        self.progress = Progress()
        self.resumed_from: Path | None = None  # a checkpoint's folder
        self.saved: dict[str, Any] = {}  # its state.json
        self.resumed_at = 0
        self._saved_step = -1
        self._generations: Generations = {}
        states: dict[int, Any] = {}
        found = self._open_folder()
        self.start = start_from(self.settings, self.folder.checkpoints, found)
        where = [f"starting from {self.start}", f"writing to {self.folder.checkpoints}"]
        log("\n".join([*where, *told_lines(self.settings)]))
        if found is not None:
            states = self._resume(self.folder.checkpoints / str(found))
        log(f"opening {len(inputs.corpora)} dataset(s), {sum(corpus.records for corpus in inputs.corpora):,} records")
        self.plan = stream.make_plan(self.inputs)
        self.digest = StreamDigest(self.plan, bytes.fromhex(self.progress.stream_sha256))
        self.loader = stream.make_loader(self.inputs, self.plan, self.progress.step, states, self._generations)
        self._announce()

    def _open_folder(self) -> int | None:
        """Lock the run's folder on rank 0; the step to resume, the same on all ranks."""
        problem, found = "", None
        if runtime.rank() == 0:
            try:
                self.folder.create()
                self._lock = self.folder.lock()
                found = self.folder.start_step(self.settings.resume_ckpt)
            except UserError as error:
                problem = str(error)
        answer = json.loads(runtime.gather_bytes(json.dumps([problem, found]).encode())[0])
        if answer[0]:
            raise UserError(answer[0])
        return answer[1]

    def _resume(self, folder: Path) -> dict[int, Any]:
        """Take up the progress of a checkpoint; returns its lanes' states, {} to start the data anew."""
        self.saved = read_json(folder / "state.json")
        if self.saved["kind"] != self.kind:
            raise UserError(f"{folder} is a checkpoint of a {self.saved['kind']} run, this is a {self.kind} run")
        self.resumed_from = folder
        if self.settings.only_load_model:
            return {}
        self.progress = Progress(**self.saved["progress"])
        self.resumed_at = self._saved_step = self.progress.step
        log(f"resuming {folder} at step {self.progress.step}")
        for said in changed(self.saved["settings"], self.settings):
            log(f"  {said} in the checkpoint's run")
        if self.settings.load_dataloader_ckpt is False:
            log("load_dataloader_ckpt=0: the data starts anew")
            return {}
        self._keep_rows_per_step(self.saved["stream"]["rows_per_step"])
        stream.check_stream(self.inputs, self.saved["stream"])
        states = stream.load_states(folder, self.inputs, self.saved["stream"])
        self._generations = extend_generations(self.inputs.corpora, self.settings.seed, self.saved["stream"], states)
        for name, (*_, before, now) in ((n, g) for n, g in self._generations.items() if len(g) > 1):
            more = now.records - before.records
            log(f"dataset {name!r}: {more:,} records were appended; they are read from epoch {now.epoch + 1} on")
        return states

    def _keep_rows_per_step(self, rows: int) -> None:
        """On other ranks, deal a step as many rows as in the checkpoint's run."""
        needed, given = stream.grad_accum_for(self.settings, rows, runtime.world_size()), self.settings.grad_accum
        if needed != given:
            log(f"grad_accum is {needed} (not {given}) to keep the checkpoint's {rows} rows per step")
            self.settings = dataclasses.replace(self.settings, grad_accum=needed)
            self.inputs = dataclasses.replace(self.inputs, settings=self.settings)

    def _announce(self) -> None:
        """Say what looks like a mistake, and which datasets end before the run does."""
        if runtime.rank() > 0:
            return
        corpora, settings = self.loader.stream.corpora, self.settings
        tokens = self.plan.rows_per_step * self.plan.row_length
        read = [corpus for corpus in self.inputs.corpora if corpus.entry.share > 0]
        samples = {corpus.entry.task_name: sample_corpus(corpus, _SAMPLED_AT_START) for corpus in read}
        for said in cautions(self.inputs, self.start, tokens, samples):
            log(f"warning: {said}")
        means = {name: sample.mean for name, sample in samples.items()}
        found = endings(corpora, tokens, [self._records_done(corpus) for corpus in corpora], self.progress.step, means)
        all_end = all(corpus.entry.epochs is not None for corpus in corpora if corpus.entry.share > 0)
        for said in describe(found, settings.train_iters, all_end, settings.stop_when_end):
            log(said)

    def _records_done(self, corpus: Corpus) -> int:
        name = corpus.entry.task_name
        return self.progress.task_documents.get(name, 0) + self.progress.task_skipped.get(name, 0)

    def epochs(self) -> dict[str, float]:
        """How many epochs of each dataset have been read."""
        corpora = self.loader.stream.corpora
        return {corpus.entry.task_name: round(corpus.epochs(self._records_done(corpus)), 6) for corpus in corpora}

    def batches(self) -> Iterator[tuple[StepBatch, StepCounts, float]]:
        """(batch, counts over all ranks, seconds waited for it) of each step left, until the data ends."""
        iterator = iter(self.loader)
        if self.progress.step >= self.settings.train_iters:
            log(f"step {self.progress.step} of {self.settings.train_iters}: nothing is left to train")
        for step in range(self.progress.step, self.settings.train_iters):
            started = time.perf_counter()
            batch = next(iterator)
            waited = time.perf_counter() - started
            counts = count_step(batch, self.loader.exhausted, step_flops(self.inputs.model_config, batch))
            if counts.exhausted and not counts.all_places:
                self._data_ended(step)
                return
            self._check_damage(batch, counts)
            self._say_what_is_skipped(batch, counts)
            yield batch, counts, waited

    def _check_damage(self, batch: StepBatch, counts: StepCounts) -> None:
        """Report damaged records, which every rank skips alike; a UserError where they are too many."""
        reasons = [skip.reason for _, skip in batch.skipped if skip.damaged]
        allowed = self.settings.max_damaged_share
        for corpus, damaged in zip(self.loader.stream.corpora, counts.damaged, strict=True):
            name = corpus.entry.task_name
            total = self.progress.task_damaged.get(name, 0) + damaged
            epochs = 1 + int(corpus.epochs(self._records_done(corpus)))  # in each it is met again
            if damaged and total > allowed * corpus.records * epochs:
                where = f" ({reasons[0]})" if reasons else ""
                raise UserError(
                    f"dataset {name!r}: {total} damaged record(s) so far{where}, more than the share of "
                    f"max_damaged_share={allowed:g}: restore the data ({command('check')} {corpus.entry.path} "
                    "finds every damaged record), then resume"
                )
        for reason in reasons:
            print(f"warning: rank {runtime.rank()} skips a damaged record: {reason}", file=sys.stderr, flush=True)

    def _say_what_is_skipped(self, batch: StepBatch, counts: StepCounts) -> None:
        """Name the first record of each dataset that is left out, or its dataset where another rank met it."""
        reasons = {task: skip for task, skip in reversed(batch.skipped) if not skip.damaged}
        for task, (corpus, skipped) in enumerate(zip(self.loader.stream.corpora, counts.skipped, strict=True)):
            name = corpus.entry.task_name
            already = self.progress.task_skipped.get(name, 0) - self.progress.task_damaged.get(name, 0)
            if skipped > counts.damaged[task] and not already:
                first = reasons.get(task)
                why = f", {record_name(first.record)}: {first.reason}" if first else ""
                log(f"dataset {name!r}: records are left out{why} (counted in state.json as task_skipped)")

    def _data_ended(self, step: int) -> None:
        message = f"the mixture is exhausted after {step} of {self.settings.train_iters} steps"
        if not self.settings.stop_when_end:
            self.save_if_new()
            raise UserError(f"{message}: use stop_when_end=1 to end there, or allow_repeat for a dataset")
        log(message)

    def advance(self, batch: StepBatch, counts: StepCounts) -> None:
        """Count a step as done."""
        progress = self.progress
        progress.step = batch.step + 1
        progress.tokens += counts.all_places
        for totals, of_step in (
            (progress.task_tokens, counts.places),
            (progress.task_documents, counts.documents),
            (progress.task_skipped, counts.skipped),
            (progress.task_damaged, counts.damaged),
        ):
            for entry, count in zip(self.inputs.entries, of_step, strict=True):
                totals[entry.task_name] = totals.get(entry.task_name, 0) + count
        self.digest.add(batch.row_digests)

    def save(self) -> None:
        """Write a checkpoint."""
        self._write_checkpoint({}, {})

    def _write_checkpoint(self, files: dict[str, Any], state: dict[str, Any], model: Decoder | None = None) -> None:
        """Write the data's state, together with this rank's `files`, `state` and the model's weights."""
        self.progress.stream_sha256 = self.digest.fold()
        data = {stream.DATA_FILE.format(rank=runtime.rank()): self.loader.state_dict()}
        writer = CheckpointWriter(self.folder.checkpoints, self.progress.step)
        started = time.perf_counter()
        writer.write(
            {**data, **files},
            {
                "kind": self.kind,
                "progress": dataclasses.asdict(self.progress),
                "stream": stream.describe_stream(self.inputs, self.plan, self._generations),
                "ranks": runtime.world_size(),
                "settings": {name: getattr(self.settings, name) for name in fields(Settings)},
                "model": dataclasses.asdict(self.inputs.model_config),
                **state,
            },
            model,
        )
        self._saved_step = self.progress.step
        log(f"saved checkpoint {self.progress.step} in {time.perf_counter() - started:.1f} s")

    def save_if_due(self) -> None:
        """Write a checkpoint every save_iters steps."""
        if self.progress.step % self.settings.save_iters == 0:
            self.save_if_new()

    def save_if_new(self) -> None:
        """Write a checkpoint unless there is one of this step, or save is off."""
        if self.settings.save and self._saved_step != self.progress.step:
            self.save()
