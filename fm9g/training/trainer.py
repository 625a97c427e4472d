"""The training loop: set up or resume, step, report, save."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fm9g import runtime
from fm9g.data.loader import StepBatch
from fm9g.errors import UserError
from fm9g.files import read_json
from fm9g.model.decoder import Decoder
from fm9g.runtime import bmt
from fm9g.training import checkpoint, stream
from fm9g.training.inputs import Inputs
from fm9g.training.metrics import Metrics, MetricsWriter, readable_line
from fm9g.training.objective import StepCounts, count_step, train_step
from fm9g.training.optimizer import make_optimizer, set_learning_rate
from fm9g.training.run_folder import RunFolder
from fm9g.training.schedule import learning_rate, resume_ramp
from fm9g.training.throughput import peak_flops, step_flops


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
    stream_sha256: str = bytes(32).hex()


class Run:
    """A training run, or with only_run_dataloader the data stream of one."""

    kind = "training"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.settings = inputs, inputs.settings
        self.folder = RunFolder(inputs.output_dir, self.settings.model_unique, self.settings.exp_group)
        self.progress = Progress()
        self.resumed_at = 0
        states: dict[int, Any] = {}
        found = self._open_folder()
        if found is not None:
            states = self._resume(self.folder.checkpoints / str(found))
        self.plan = stream.make_plan(inputs)
        self.digest = stream.StreamDigest(self.plan, bytes.fromhex(self.progress.stream_sha256))
        self.loader = stream.make_loader(inputs, self.plan, self.progress.step, states)

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
        self.resumed_at = self.progress.step
        log(f"resuming {folder} at step {self.progress.step}")
        if self.settings.load_dataloader_ckpt is False:
            log("load_dataloader_ckpt=0: the data starts anew")
            return {}
        note = stream.keep_rows_per_step(self.inputs, self.saved["stream"], runtime.world_size())
        if note:
            log(note)
        stream.check_stream(self.inputs, self.saved["stream"])
        return stream.load_states(folder, self.inputs, self.saved["stream"])

    def batches(self) -> Iterator[tuple[StepBatch, StepCounts, float]]:
        """(batch, counts over all ranks, seconds waited for it) of each step left, until the data ends."""
        iterator = iter(self.loader)
        for step in range(self.progress.step, self.settings.train_iters):
            started = time.perf_counter()
            batch = next(iterator)
            waited = time.perf_counter() - started
            counts = count_step(batch, self.loader.exhausted, step_flops(self.inputs.model_config, batch))
            if counts.exhausted and not counts.all_places:
                self._data_ended(step)
                return
            yield batch, counts, waited

    def _data_ended(self, step: int) -> None:
        message = f"the mixture is exhausted after {step} of {self.settings.train_iters} steps"
        if not self.settings.stop_when_end:
            raise UserError(f"{message}: use stop_when_end=1 to end there, or allow_repeat for a dataset")
        log(message)

    def advance(self, batch: StepBatch, counts: StepCounts) -> None:
        """Count a step as done."""
        progress = self.progress
        progress.step = batch.step + 1
        progress.tokens += counts.all_places
        for source, places, begun in zip(self.inputs.sources, counts.places, counts.documents, strict=True):
            name = source.task_name
            progress.task_tokens[name] = progress.task_tokens.get(name, 0) + places
            progress.task_documents[name] = progress.task_documents.get(name, 0) + begun
        self.digest.add(batch.row_digests)

    def save(self) -> None:
        """Write a checkpoint."""
        self._write_checkpoint({}, {})

    def _write_checkpoint(self, files: dict[str, Any], state: dict[str, Any], model: Decoder | None = None) -> None:
        """Write the data's state, together with this rank's `files`, `state` and the model's weights."""
        self.progress.stream_sha256 = self.digest.fold()
        data = {stream.DATA_FILE.format(rank=runtime.rank()): self.loader.state_dict()}
        writer = checkpoint.CheckpointWriter(self.folder.checkpoints, self.progress.step)
        started = time.perf_counter()
        writer.write(
            {**data, **files},
            {
                "kind": self.kind,
                "progress": dataclasses.asdict(self.progress),
                "stream": stream.describe_stream(self.inputs, self.plan),
                "ranks": runtime.world_size(),
                "settings": {k: v for k, v in dataclasses.asdict(self.settings).items() if k != "given"},
                "model": dataclasses.asdict(self.inputs.model_config),
                **state,
            },
            model,
        )
        log(f"saved checkpoint {self.progress.step} in {time.perf_counter() - started:.1f} s")

    @property
    def should_save(self) -> bool:
        """Whether a checkpoint is due now."""
        return self.settings.save and self.progress.step % self.settings.save_iters == 0


class Training(Run):
    """A run that trains."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.model = Decoder(inputs.model_config, self.settings.flash, self.settings.use_checkpoint)
        bmt.init_parameters(self.model)
        torch.manual_seed(self.settings.seed + 1 + runtime.rank())  # ranks drop out different elements
        self.manager = make_optimizer(self.settings, self.model)
        self._load()
        self._peak = peak_flops(inputs.model_config.dtype)
        self._writer = None
        if runtime.rank() == 0:
            self._writer = MetricsWriter(
                self.folder.logs, self.folder.tensorboard, self.progress.step + 1, self.settings.tensorboard_all_tasks
            )
        config = inputs.model_config
        log(
            f"model: {config.num_parameters():,} parameters, {config.dtype}, "
            f"{self.model.encoder.kernel_name} attention; "
            f"{self.plan.rows_per_step} rows of {self.plan.row_length} tokens per step"
        )

    @property
    def optimizer(self) -> Any:
        return self.manager.optimizers[0]

    def _load(self) -> None:
        """Load what the settings ask for: pretrained weights, or those (and more) of the resumed checkpoint."""
        settings = self.settings
        folder = getattr(self, "resumed_from", None)
        weights = folder / checkpoint.weights_name(self.saved["progress"]["step"]) if folder else None
        if settings.pretrained_model:
            weights, folder = Path(settings.pretrained_model), Path(settings.pretrained_model).parent
        if weights is None or folder is None:
            if settings.load_grad:
                raise UserError("load_grad=1 needs a checkpoint: give resume_ckpt or pretrained_model")
            return
        skipped = checkpoint.load_weights(self.model, weights, settings.strict_state_dict)
        log(f"loaded weights from {weights}" + "".join(f"\n  skipped: {item}" for item in skipped))
        full = bool(settings.resume_ckpt) and not settings.only_load_model
        if settings.load_grad or (full and settings.load_grad is None):
            self._load_optimizer(folder)
        if full:
            self.manager.loss_scale = self.saved["loss_scale"]
            self.manager.steps_since_last_scale = self.saved["steps_since_last_scale"]
            if self.saved["ranks"] != runtime.world_size() or not checkpoint.load_random_state(folder):
                log(f"the checkpoint had {self.saved['ranks']} ranks: random generators start anew")

    def _load_optimizer(self, folder: Path) -> None:
        on_host = isinstance(self.optimizer, bmt.optim.AdamOffloadOptimizer)
        files = checkpoint.load_optimizer_state(self.model, self.optimizer, folder, on_host)
        wanted = self.settings.grad_ckpt_num
        if "grad_ckpt_num" in self.settings.given and wanted != files:
            raise UserError(f"{folder} holds {files} optimizer file(s), grad_ckpt_num says {wanted}")

    def train(self) -> None:
        """Run the iterations that are left, then save."""
        saved_at = self.progress.step if self.resumed_at else -1
        started, first = time.perf_counter(), self.progress.step
        for batch, counts, waited in self.batches():
            metrics = self._iteration(batch, counts, waited)
            seconds = (time.perf_counter() - started) / (self.progress.step - first)
            log(
                readable_line(
                    metrics, self.settings.train_iters, seconds * (self.settings.train_iters - metrics.iteration)
                )
            )
            if self._writer:
                self._writer.write(metrics)
            if self.should_save:
                self.save()
                saved_at = self.progress.step
        if self.settings.save and saved_at != self.progress.step:
            self.save()
        if self._writer:
            self._writer.close()

    def _iteration(self, batch: StepBatch, counts: StepCounts, waited: float) -> Metrics:
        """One optimizer step and its metrics."""
        started = time.perf_counter()
        iteration = batch.step + 1
        rate = learning_rate(self.settings, iteration) * resume_ramp(self.settings, batch.step - self._ramp_start)
        set_learning_rate(self.manager, rate)
        self.manager.zero_grad()
        loss, by_task = train_step(self.model, self.manager, batch, counts)
        scale = float(self.manager.loss_scale)
        norm = self._update(iteration, loss) if counts.all_valid else 0.0
        self.advance(batch, counts)
        runtime.synchronize_device()
        seconds = time.perf_counter() - started + waited
        names = [source.task_name for source in self.inputs.sources]
        return Metrics(
            iteration=iteration,
            loss=loss if counts.all_valid else None,
            lr=rate,
            grad_norm=norm,
            tokens=self.progress.tokens,
            tokens_per_second=counts.all_places / seconds,
            mfu=counts.flops / seconds / (self._peak * runtime.world_size()),
            step_seconds=seconds,
            data_seconds=waited,
            memory_bytes=runtime.all_reduce(runtime.memory_bytes(), "max"),
            task_loss={name: by_task[i] for i, name in enumerate(names) if counts.valid[i]},
            task_tokens=dict(self.progress.task_tokens),
            loss_scale=scale,
        )

    @property
    def _ramp_start(self) -> int:
        return self.resumed_at if self.resumed_at else -self.settings.resume_no_optimze

    def _update(self, iteration: int, loss: float) -> float | None:
        """Clip and step; the gradient's norm, or None where fp16 overflowed and the step was skipped."""
        groups = self.optimizer.param_groups
        norm = float(self.manager.clip_grad_norm(groups, self.settings.clip_grad or math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)) and not self.manager.loss_scale_enabled:
            raise UserError(
                f"iteration {iteration}: loss {loss}, gradient norm {norm}: training has diverged. The weights "
                "were not updated; resume the last checkpoint with a lower lr, a longer warm-up or other data"
            )
        if self.settings.inspect_iters and iteration % self.settings.inspect_iters == 0:
            self._inspect(iteration)
        self.manager.step()
        return norm if math.isfinite(norm) else None

    def _inspect(self, iteration: int) -> None:
        summary = bmt.inspect.inspect_model(self.model, "*")
        log(f"parameters and gradients at iteration {iteration}:\n{bmt.inspect.format_summary(summary)}")
        if self._writer:
            self._writer.write_summary(summary, iteration)

    def save(self) -> None:
        """Write a whole checkpoint."""
        rank = runtime.rank()
        files = {
            checkpoint.OPTIMIZER_FILE.format(rank=rank): checkpoint.optimizer_state(self.model, self.optimizer),
            checkpoint.RANDOM_FILE.format(rank=rank): checkpoint.random_state(),
        }
        scale = {"loss_scale": self.manager.loss_scale, "steps_since_last_scale": self.manager.steps_since_last_scale}
        self._write_checkpoint(files, scale, self.model)


class DataRun(Run):
    """The data pipeline alone: only_run_dataloader."""

    kind = "dataloader"

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._lengths: list[int] = []
        self._places = 0

    def run(self) -> None:
        """Read the steps that are left, save as training does, and report."""
        started, first_tokens, steps = time.perf_counter(), self.progress.tokens, 0
        for batch, counts, _ in self.batches():
            self.advance(batch, counts)
            steps += 1
            for strip in batch.strips:
                self._lengths += [n for n, task in zip(strip.lengths, strip.tasks, strict=True) if task >= 0]
            self._places += self.plan.rows_per_step * self.plan.row_length
            if self.settings.inspect_iters and self.progress.step % self.settings.inspect_iters == 0:
                self._report(started, first_tokens)
            self._lengths = self._lengths[-100_000:]
            if self.should_save:
                self.save()
        if self.settings.save and steps and not self.should_save:
            self.save()
        self._report(started, first_tokens)
        digest = self.digest.fold()
        log(f"stream_sha256 {digest}")

    def _report(self, started: float, first_tokens: int) -> None:
        seconds, tokens = time.perf_counter() - started, self.progress.tokens - first_tokens
        total = max(1, self.progress.tokens)
        shares = ", ".join(
            f"{name} {count / total:.2%} ({self.progress.task_documents[name]:,} documents)"
            for name, count in self.progress.task_tokens.items()
        )
        lengths = sorted(self._lengths) or [0]
        middle, longest = lengths[len(lengths) // 2], lengths[-1]
        log(
            f"data {self.progress.step}/{self.settings.train_iters} | {tokens / max(seconds, 1e-9):,.0f} tok/s | "
            f"fill {tokens / max(1, self._places):.1%} | piece length median {middle}, longest {longest} | {shares}"
        )


def run(inputs: Inputs) -> None:
    """Start the runtime and do what the settings ask for."""
    runtime.initialize(inputs.settings.seed, inputs.settings.tp_size)
    try:
        if inputs.settings.only_run_dataloader:
            DataRun(inputs).run()
        else:
            Training(inputs).train()
        runtime.barrier()
    except (UserError, OSError) as error:  # these become one line and an exit status; the other ranks must end too
        runtime.fail(str(error))
        raise
