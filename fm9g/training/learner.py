"""What learns: the model, its objective and its optimizer, loaded, stepped and saved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fm9g import runtime
from fm9g.checkpoint.optimizer import OPTIMIZER_FILE, load_optimizer_state, optimizer_state
from fm9g.checkpoint.random_state import RANDOM_FILE, load_random_state, random_state
from fm9g.checkpoint.saved import Saved
from fm9g.checkpoint.weights import fault_in_model, load_weights
from fm9g.data.stream.loader import StepBatch
from fm9g.errors import UserError
from fm9g.lora.adapters import Adapters
from fm9g.lora.told import check_base
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder, as_it_is
from fm9g.model.parameters import parameters
from fm9g.objectives import find_objective
from fm9g.runtime import bmt
from fm9g.runtime.log import log
from fm9g.tensors.fingerprint import fingerprint
from fm9g.training.bad_steps import BadSteps
from fm9g.training.memory import memory_advice
from fm9g.training.optimizer import make_optimizer, set_learning_rate
from fm9g.training.schedule import learning_rate, resume_ramp
from fm9g.training.settings import Settings
from fm9g.training.start import Start
from fm9g.training.step import StepCounts, StepLosses, step_losses, units_by_task


class Diverged(Exception):
    """No step can be taken, or no checkpoint be worth it. Who knows the checkpoints says how to go back."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


OVERFLOW, SKIP_ITERS, BAD_STEP, OUT_OF_MEMORY = "overflow", "skip_iters", "bad step", "out of memory"


@dataclass
class Learned:
    """What a step came to."""

    losses: StepLosses | None  # None where the step was jumped over
    rate: float  # of learning
    norm: float | None  # of the gradient before clipping; None where fp16 overflowed or there is none
    scale: float  # of the loss
    skipped: str = ""  # why no update was made: OVERFLOW, SKIP_ITERS, BAD_STEP, OUT_OF_MEMORY; "" where one was
    fault: str = ""  # what was wrong with a step that is bad or out of memory


class Learner:
    """Built new; `load` gives it what a start names."""

    def __init__(self, settings: Settings, config: ModelConfig) -> None:
        self._settings, self._config = settings, config
        self.adapters = Adapters(settings, config) if settings.lora else None
        prepare = self.adapters.prepare if self.adapters else as_it_is
        options = (settings.flash, settings.use_checkpoint, prepare, settings.neft_alpha, settings.attention_group)
        self.model = Decoder(config, *options)
        bmt.init_parameters(self.model)
        torch.manual_seed(settings.seed + 1 + runtime.rank())  # ranks drop out different elements
        self.objective = find_objective(settings.objective)(self.model, settings)
        self.manager = make_optimizer(settings, self.model)
        self.bad_steps = BadSteps()
        self.base = ""  # the fingerprint of the weights that adapters are for
        self._ramp_start = -settings.resume_no_optimze  # of a run that is not resumed there is no ramp

    @property
    def optimizer(self) -> Any:
        return self.manager.optimizers[0]

    def load(self, start: Start, saved: Saved | None) -> None:
        """Load what a start names; `saved` is the checkpoint that it resumes."""
        if start.weights is not None:
            self._load_weights(start.weights, {parameter.name for parameter in parameters(self._config)})
        if self.adapters is not None and start.weights is not None:
            self.base = fingerprint(start.weights)
            if start.adapters is None:
                self.adapters.begin(self.model)
            else:
                check_base(start.adapters, self.base, start.weights)
                self._load_weights(start.adapters, set(self.saved_names))
        if start.optimizer is not None:
            self._load_optimizer(start.optimizer)
        if saved is not None:
            self._ramp_start = saved.state["progress"]["step"] or self._ramp_start
            self.manager.loss_scale = saved.state["loss_scale"]
            self.manager.steps_since_last_scale = saved.state["steps_since_last_scale"]
            self.bad_steps = saved.part("bad_steps", BadSteps)
            ranks, tp_size = saved.state["ranks"], saved.state["settings"].get("tp_size", 1)
            if (ranks, tp_size) == (runtime.world_size(), runtime.tp_size()):
                load_random_state(saved.files(RANDOM_FILE)[runtime.rank()])
            else:
                log(f"the checkpoint had {ranks} ranks, tp_size {tp_size}: random generators start anew")

    def _load_weights(self, path: Path, names: Collection[str]) -> None:
        log(f"loading {path}")
        skipped = load_weights(self.model, path, self._settings.strict_state_dict, names)
        log(f"loaded weights from {path}" + "".join(f"\n  skipped: {item}" for item in skipped))

    @property
    def saved_names(self) -> list[str]:
        """The weights of a checkpoint: all, or those that are trained beside a base that stays as it is."""
        return [name for name, value in self.model.named_parameters() if value.requires_grad or self.adapters is None]

    def _load_optimizer(self, folder: Path) -> None:
        on_host = isinstance(self.optimizer, bmt.optim.AdamOffloadOptimizer)
        files = load_optimizer_state(self.model, self.optimizer, folder, on_host)
        wanted = self._settings.grad_ckpt_num
        if "grad_ckpt_num" in self._settings.sources and wanted != files:
            raise UserError(f"{folder} holds {files} optimizer file(s), grad_ckpt_num says {wanted}")

    def units(self, batch: StepBatch) -> list[float]:
        """[tasks]: the units of the loss in this rank's part of a step."""
        return units_by_task(self.objective, batch)

    def step(self, batch: StepBatch, counts: StepCounts, inspect: Callable[[], None] | None = None) -> Learned:
        """Take a step; `inspect` is called when its gradients are there and its update is not made yet."""
        iteration = batch.step + 1
        rate = learning_rate(self._settings, iteration) * resume_ramp(self._settings, batch.step - self._ramp_start)
        scale = float(self.manager.loss_scale)
        if self._settings.skips(iteration):
            return Learned(None, rate, None, scale, SKIP_ITERS)
        set_learning_rate(self.manager, rate)
        self.manager.zero_grad()
        try:
            losses = step_losses(self.model, self.objective, batch, counts, self.manager.backward)
            learned = Learned(losses, rate, 0.0, scale)
            if counts.all_units:
                self._update(learned, losses.loss, inspect)
        except torch.cuda.OutOfMemoryError as error:
            fault = str(error).splitlines()[0]
        else:
            return learned
        # outside of the except, which would keep what the step has taken
        return self._without_memory(iteration, rate, scale, fault)

    def _without_memory(self, iteration: int, rate: float, scale: float, fault: str) -> Learned:
        """A step that the device has no memory for: jumped over by a rank that is alone, and the end of several."""
        advice = memory_advice(self._config, self._settings, runtime.world_size())
        if runtime.world_size() > 1 or not self._settings.ignore_cuda_oom:
            raise UserError(f"iteration {iteration}: rank {runtime.rank()} is out of memory: {fault}; {advice}")
        runtime.give_back_all(self.model)
        self.manager.zero_grad()
        runtime.release_memory()
        return Learned(None, rate, None, scale, OUT_OF_MEMORY, f"{fault}; {advice}")

    def _update(self, learned: Learned, loss: float, inspect: Callable[[], None] | None) -> None:
        """Clip and step, unless the step is bad; `learned` takes in which."""
        groups = self.optimizer.param_groups
        norm = float(self.manager.clip_grad_norm(groups, self._settings.clip_grad or math.inf))
        # The loss comes before the scale: only the gradient can have overflowed because of it.
        if math.isfinite(loss) and not math.isfinite(norm) and self._scale_can_fall:
            learned.norm, learned.skipped = None, OVERFLOW
        else:
            learned.norm = norm
            if fault := self.bad_steps.judge(loss, norm, self._settings.outlier_sigma):
                learned.skipped, learned.fault = BAD_STEP, fault + self._least_scale
                return
        if inspect is not None:
            inspect()
        self.manager.step()  # which lowers the scale after an overflow, and updates nothing

    @property
    def _least_scale(self) -> str:
        """What to say of a bad step where overflows have brought the loss scale to its minimum."""
        manager = self.manager
        least = manager.loss_scale_enabled and manager.loss_scale <= self._settings.min_loss_scale
        return f" with the loss scale at its minimum, {manager.loss_scale:g}" if least else ""

    def check_bad_steps(self, iteration: int, fault: str) -> None:
        """Diverged where as many steps in a row were bad as max_bad_steps says."""
        count, wider = self.bad_steps.in_a_row, ""
        if count < self._settings.max_bad_steps:
            return
        if self._config.dtype == "fp16":
            wider = ", or in bf16, whose range is wider"
        row = f" ({count} bad steps in a row)" if count > 1 else ""
        raise Diverged(
            f"iteration {iteration}: {fault}: training has diverged{row}. The weights were not updated, and nothing is "
            "saved",
            wider,
        )

    @property
    def _scale_can_fall(self) -> bool:
        """Whether an overflow may be the loss scale's doing; BMTrain does not look for one in float32."""
        scaled = self.manager.loss_scale_enabled and self._config.dtype != "float32"
        return scaled and self.manager.loss_scale > self._settings.min_loss_scale

    def check_weights(self, step: int) -> None:
        """Refuse weights that are not finite any more, which are not worth a checkpoint."""
        if wrong := fault_in_model(self.model):
            raise Diverged(f"iteration {step}: {wrong}: training has diverged, and nothing is saved")

    def files(self) -> dict[str, Any]:
        """This rank's files of a checkpoint."""
        rank = runtime.rank()
        return {
            OPTIMIZER_FILE.format(rank=rank): optimizer_state(self.model, self.optimizer),
            RANDOM_FILE.format(rank=rank): random_state(),
        }

    def state(self) -> dict[str, Any]:
        """What state.json holds of it."""
        manager = self.manager
        state: dict[str, Any] = {
            "loss_scale": manager.loss_scale,
            "steps_since_last_scale": manager.steps_since_last_scale,
            "bad_steps": dataclasses.asdict(self.bad_steps),
        }
        return state if self.adapters is None else state | {"adapters": self.adapters.describe(self.base)}
