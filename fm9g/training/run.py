"""A run: opened where its settings say it starts, and gone through to its end."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from fm9g import launcher, runtime
from fm9g.checkpoint.checkpoints import Checkpoints
from fm9g.checkpoint.damage import damage_beside
from fm9g.checkpoint.manifest import TRAINING, nothing, of_optimizer
from fm9g.checkpoint.named import instead_of
from fm9g.checkpoint.random_state import generators_kept
from fm9g.checkpoint.saved import Saved
from fm9g.data.stream.dry_read import fill
from fm9g.data.stream.forecast import describe, endings, never_ends
from fm9g.environment import whole_number
from fm9g.errors import UserError
from fm9g.lora.told import check_told
from fm9g.model.parameters import num_parameters
from fm9g.runtime.log import log
from fm9g.runtime.process import lost_worker
from fm9g.runtime.shards import whole_shapes
from fm9g.settings import told_lines
from fm9g.training.best import Best
from fm9g.training.cautions import about_export, cautions, sample
from fm9g.training.cluster_check import check_cluster
from fm9g.training.data_run import DataRun
from fm9g.training.evaluation import Evaluation
from fm9g.training.inputs import Inputs
from fm9g.training.learner import Learner
from fm9g.training.loop import Loop
from fm9g.training.memory import about_checkpoints
from fm9g.training.metrics import MetricsWriter
from fm9g.training.overlap import COMPARED_AT_START, check_overlap
from fm9g.training.progress import Progress
from fm9g.training.run_stream import RunStream
from fm9g.training.same_run import check_ranks, check_resumed
from fm9g.training.samples import Samples
from fm9g.training.start import Resumed, Start, deal_rows, start_from

_SAMPLED_AT_START = 64  # documents of each dataset, by rank 0: a fraction of a second


class Opened(NamedTuple):
    """What runs with and without a model begin with."""

    stream: RunStream
    checkpoints: Checkpoints
    start: Start
    saved: Saved | None  # the checkpoint that is resumed


def run(inputs: Inputs) -> None:
    """Start the runtime and do what the settings ask for; where the run is asked to stop, exit with STOPPED."""
    settings = inputs.settings
    settings.data_ranks(whole_number("WORLD_SIZE", 1, least=1))
    # a collective ends later than step_timeout ends the run, which says more
    runtime.initialize(settings.seed, settings.tp_size, settings.step_timeout + 600)
    try:
        stopped = go(inputs)
        runtime.barrier()
    except (UserError, OSError) as error:  # these become one line and an exit status; the other ranks must end too
        runtime.fail(str(error), restart_helps=isinstance(error, OSError))
        raise
    except RuntimeError as error:
        if not (lost := lost_worker(error)):
            raise
        runtime.fail(lost)
        raise UserError(lost) from None
    if stopped:
        _exit_stopped()


def _exit_stopped() -> NoReturn:
    """Of another exit status than 0 torchrun would say that it failed: its launcher exits with STOPPED."""
    try:
        launcher.leave(launcher.HAS_STOPPED)
    except OSError:
        sys.exit(launcher.STOPPED)
    sys.exit(0 if launcher.is_launched() else launcher.STOPPED)


def go(inputs: Inputs) -> bool:
    """The run itself, in a process group that is there; whether it was asked to stop before its end."""
    check_ranks(inputs)
    if inputs.settings.check_cluster:
        check_cluster(inputs)
        return False
    if inputs.settings.only_run_dataloader:
        opened = open_run(inputs, "dataloader")
        DataRun(opened.stream, opened.checkpoints).run()
        opened.checkpoints.close()
        stream, last = opened.stream, opened.checkpoints.last
    else:
        loop = open_loop(inputs)
        loop.run()
        loop.close()
        stream, last = loop.stream, loop.checkpoints.last
    if not stream.stopped:
        return False
    step = stream.progress.step
    if step and not inputs.settings.save:
        raise UserError(f"stopped after step {step}, which is not saved (save=0): there is nothing to go on from")
    if last == step:
        log(f"stopped after step {step}, which is saved: resume_ckpt latest goes on from there")
    else:
        log(f"stopped before a step was made: resume_ckpt latest begins {'anew' if last < 0 else 'where this began'}")
    return True


def open_run(inputs: Inputs, kind: str) -> Opened:
    """Lock the run's folder, find what it starts from, and open its data there."""
    settings = inputs.settings
    folder = inputs.folder
    checkpoints = Checkpoints(folder, settings)
    step = checkpoints.open(settings.resume_ckpt, Resumed.by(settings).needs)
    start = start_from(settings, folder.checkpoints, step)
    if kind == TRAINING:
        _compare_named(start, None if step is None else checkpoints.path(step))
    saved = (
        None if step is None else Saved.read(checkpoints.path(step), kind)
    )  # looked at, though only weights be taken
    where = [f"starting from {start}", f"writing to {folder.checkpoints}"]
    log("\n".join([*where, *told_lines(settings)]))
    if start.adapters is not None and (said := check_told(start.adapters, settings, inputs.model_config)):
        log(said)
    if start.resumed is None:
        saved = None
    if saved is not None:
        inputs = _resumed(inputs, start, saved)
        checkpoints.last = saved.state["progress"]["step"]
    progress = Progress() if saved is None else saved.part("progress", Progress)
    log(f"opening {len(inputs.corpora)} dataset(s), {sum(corpus.records for corpus in inputs.corpora):,} records")
    stream = RunStream(inputs, progress, saved if start.data else None)
    _announce(stream, start)
    return Opened(stream, checkpoints, start, saved)


def _compare_named(start: Start, resumed: Path | None) -> None:
    """Refuse weights and adapters that settings name where they lie in a checkpoint and are not what was written: what
    is resumed has been compared."""
    for weights in (start.weights, start.adapters):
        if weights is None or weights.parent == resumed:
            continue
        if wrong := damage_beside(weights, of_optimizer if start.optimizer == weights.parent else nothing):
            raise UserError(f"{wrong}; {instead_of(weights.parent)}")


def _resumed(inputs: Inputs, start: Start, saved: Saved) -> Inputs:
    """Say what is resumed and with what changes; the inputs with rows dealt to these ranks as they were."""
    settings = inputs.settings
    log(f"resuming {saved.folder} at step {saved.state['progress']['step']}")
    for said in check_resumed(saved.state, settings, inputs.model_config):
        log(f"  {said} in the checkpoint's run")
    if not start.data:
        log("load_dataloader_ckpt=0: the data starts anew")
        return inputs
    rows = saved.state["stream"]["rows_per_step"]
    if settings.counts_epochs and settings.num_train_epochs == saved.state["settings"].get("num_train_epochs"):
        settings = dataclasses.replace(
            settings, train_iters=saved.state["settings"]["train_iters"]
        )  # on other ranks, too
    dealt = deal_rows(settings, rows, runtime.data_ranks())
    if dealt != settings:
        was = settings.grad_accum
        log(f"grad_accum is {dealt.grad_accum} (not {was}) to keep the checkpoint's {rows} rows per step")
    return dataclasses.replace(inputs, settings=dealt)


def _announce(stream: RunStream, start: Start) -> None:
    """Say what looks like a mistake, and which datasets end before the run does; refuse held-out data that is trained
    on."""
    if runtime.rank() > 0:
        return
    inputs, corpora, settings = stream.inputs, stream.corpora, stream.inputs.settings
    places = stream.plan.rows_per_step * stream.plan.row_length
    # a launcher has compared them, and said it
    log(f"checkpoints: {about_checkpoints(inputs.model_config, settings, inputs.folder.checkpoints)}")
    overlaps = [] if launcher.is_launched() else check_overlap(inputs, COMPARED_AT_START)
    with generators_kept():  # from which transforms may draw
        samples = sample(inputs, _SAMPLED_AT_START)
        tokens = places * fill(corpora, stream.plan)
    for said in overlaps + cautions(inputs, start, tokens, samples) + about_export(inputs, start):
        log(f"warning: {said}")
    found = endings(corpora, tokens, stream.records_done(), stream.progress.step, samples.trained)
    for said in describe(found, settings.train_iters, never_ends(corpora), settings.stop_when_end):
        log(said)


def _trained(learner: Learner) -> str:
    """What is trained of a model that is not trained as a whole."""
    if learner.adapters is None:
        return ""
    shapes = whole_shapes(learner.model)
    trained = sum(math.prod(shapes[name]) for name in learner.saved_names)
    whole = " and modules_to_save" if learner.adapters.saves_whole else ""
    return f"{trained:,} more in adapters of {learner.adapters.modules} layers{whole} are trained alone, "


def open_loop(inputs: Inputs) -> Loop:
    """A run that trains, before its first step."""
    opened = open_run(inputs, TRAINING)
    stream, inputs = opened.stream, opened.stream.inputs
    settings, config = inputs.settings, inputs.model_config
    log("building the model")
    learner = Learner(settings, config)
    learner.load(opened.start, opened.saved)
    evaluation = Evaluation(inputs, learner) if inputs.held_out else None
    samples = Samples(inputs, learner) if inputs.sample_prompts and inputs.held_out else None
    folder, writer = opened.checkpoints.folder, None
    if runtime.rank() == 0:
        first = stream.progress.step + 1
        writer = MetricsWriter(folder.logs, folder.tensorboard, first, settings.tensorboard_all_tasks)
    log(
        f"model: {num_parameters(config):,} parameters, {config.dtype}, {_trained(learner)}"
        f"{learner.model.encoder.kernel_name} attention; "
        f"{stream.plan.rows_per_step} rows of {stream.plan.row_length} tokens per step"
    )
    best = Best() if opened.saved is None else opened.saved.part("best", Best)
    return Loop(stream, learner, opened.checkpoints, evaluation, samples, writer, best)
