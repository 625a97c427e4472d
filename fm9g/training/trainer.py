"""The training loop: set up or resume, step, report, save."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from fm9g import runtime
from fm9g.checkpoint.optimizer import OPTIMIZER_FILE, load_optimizer_state, optimizer_state
from fm9g.checkpoint.random_state import RANDOM_FILE, load_random_state, random_state
from fm9g.checkpoint.weights import fault_in_model, load_weights, weights_name
from fm9g.data.stream.loader import StepBatch
from fm9g.errors import UserError
from fm9g.model.decoder import Decoder
from fm9g.runtime import bmt
from fm9g.training.data_run import DataRun
from fm9g.training.inputs import Inputs
from fm9g.training.metrics import Metrics, MetricsWriter, readable_line
from fm9g.training.objective import StepCounts, train_step
from fm9g.training.optimizer import make_optimizer, set_learning_rate
from fm9g.training.run import Run, log
from fm9g.training.schedule import learning_rate, resume_ramp
from fm9g.training.throughput import peak_flops


class Training(Run):
    """A run that trains."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        log("building the model")
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
        settings, folder, weights = self.settings, self.start.checkpoint, self.start.pretrained
        full = folder is not None and not settings.only_load_model
        if folder is not None:
            weights = folder / weights_name(self.saved["progress"]["step"])
        elif weights is not None:
            folder = weights.parent
        if weights is None or folder is None:
            if settings.load_grad:
                raise UserError("load_grad=1 needs a checkpoint: give resume_ckpt or pretrained_model")
            return
        log(f"loading {weights}")
        skipped = load_weights(self.model, weights, settings.strict_state_dict)
        log(f"loaded weights from {weights}" + "".join(f"\n  skipped: {item}" for item in skipped))
        if settings.load_grad or (full and settings.load_grad is None):
            self._load_optimizer(folder)
        if full:
            self.manager.loss_scale = self.saved["loss_scale"]
            self.manager.steps_since_last_scale = self.saved["steps_since_last_scale"]
            if self.saved["ranks"] != runtime.world_size() or not load_random_state(folder):
                log(f"the checkpoint had {self.saved['ranks']} ranks: random generators start anew")

    def _load_optimizer(self, folder: Path) -> None:
        on_host = isinstance(self.optimizer, bmt.optim.AdamOffloadOptimizer)
        files = load_optimizer_state(self.model, self.optimizer, folder, on_host)
        wanted = self.settings.grad_ckpt_num
        if "grad_ckpt_num" in self.settings.sources and wanted != files:
            raise UserError(f"{folder} holds {files} optimizer file(s), grad_ckpt_num says {wanted}")

    def train(self) -> None:
        """Run the iterations that are left, then save."""
        started, first = time.perf_counter(), self.progress.step
        if first < self.settings.train_iters:
            log(f"step {first + 1} of {self.settings.train_iters} begins")
        for batch, counts, waited in self.batches():
            metrics = self._iteration(batch, counts, waited)
            seconds = (time.perf_counter() - started) / (self.progress.step - first)
            if metrics.iteration % self.settings.log_iters == 0 or metrics.iteration == self.settings.train_iters:
                left = seconds * (self.settings.train_iters - metrics.iteration)
                number = metrics.iteration // self.settings.log_iters
                log(readable_line(metrics, self.settings.train_iters, left, number))
            if self._writer:
                self._writer.write(metrics)
            self.save_if_due()
        self.save_if_new()
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
        names = [entry.task_name for entry in self.inputs.entries]
        return Metrics(
            iteration=iteration,
            loss=loss if counts.all_valid else None,
            lr=rate,
            grad_norm=norm,
            tokens=self.progress.tokens,
            tokens_per_second=counts.all_places / seconds,
            mfu=counts.flops / seconds / (self._peak * runtime.world_size()) if self._peak else None,
            step_seconds=seconds,
            data_seconds=waited,
            memory_bytes=runtime.all_reduce(runtime.memory_bytes(), "max"),
            task_loss={name: by_task[i] for i, name in enumerate(names) if counts.valid[i]},
            task_tokens=dict(self.progress.task_tokens),
            task_documents=dict(self.progress.task_documents),
            task_epochs=self.epochs(),
            loss_scale=scale,
        )

    @property
    def _ramp_start(self) -> int:
        return self.resumed_at if self.resumed_at else -self.settings.resume_no_optimze

    def _update(self, iteration: int, loss: float) -> float | None:
        """Clip and step; the gradient's norm, or None where fp16 overflowed and the step was skipped."""
        groups = self.optimizer.param_groups
        norm = float(self.manager.clip_grad_norm(groups, self.settings.clip_grad or math.inf))
        # The loss comes before the scale: only the gradient can have overflowed because of it.
        if not math.isfinite(loss) or not (math.isfinite(norm) or self._scale_can_fall):
            wider = ", or in bf16, whose range is wider" if self.inputs.model_config.dtype == "fp16" else ""
            raise UserError(
                f"iteration {iteration}: loss {loss}, gradient norm {norm}: training has diverged. The weights "
                f"were not updated, and nothing is saved; {self._way_back()}{wider}"
            )
        if self.settings.inspect_iters and iteration % self.settings.inspect_iters == 0:
            self._inspect(iteration)
        self.manager.step()
        return norm if math.isfinite(norm) else None

    def _way_back(self) -> str:
        advice = "with a lower lr, a longer warm-up or other data"
        if self._saved_step < 0:
            return f"there is no checkpoint of this run yet: start it anew {advice}"
        return f"resume the last checkpoint ({self.folder.checkpoints / str(self._saved_step)}) {advice}"

    @property
    def _scale_can_fall(self) -> bool:
        """Whether an overflow may be the loss scale's doing; BMTrain does not look for one in float32."""
        scaled = self.manager.loss_scale_enabled and self.inputs.model_config.dtype != "float32"
        return scaled and self.manager.loss_scale > self.settings.min_loss_scale

    def _inspect(self, iteration: int) -> None:
        summary = bmt.inspect.inspect_model(self.model, "*")
        if self._writer:
            self._writer.write_summary(summary, iteration)

    def save(self) -> None:
        """Write a whole checkpoint; a UserError instead where the weights are no longer finite."""
        if wrong := fault_in_model(self.model):
            step = self.progress.step
            raise UserError(
                f"iteration {step}: {wrong}: training has diverged, and nothing is saved; {self._way_back()}"
            )
        rank = runtime.rank()
        files = {
            OPTIMIZER_FILE.format(rank=rank): optimizer_state(self.model, self.optimizer),
            RANDOM_FILE.format(rank=rank): random_state(),
        }
        scale = {"loss_scale": self.manager.loss_scale, "steps_since_last_scale": self.manager.steps_since_last_scale}
        self._write_checkpoint(files, scale, self.model)


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
