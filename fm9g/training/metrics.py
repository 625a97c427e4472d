"""What a run reports of each iteration: a line to read, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fm9g.display import LINE_WIDTH, as_many_as_fit, columns
from fm9g.environment import tell
from fm9g.errors import UserError
from fm9g.files import AppendedLines, write_text
from fm9g.training.bad_steps import BAD_STEPS_FILE
from fm9g.training.board import Board

_IN_ANOTHER = "its points go on in another file when they can"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found: nats a unit over all that it read, and for each task."""

    loss: float
    task_loss: dict[str, float]
    seen: dict[str, float]
    tokens: int
    skipped: int  # records that gave no document, the damaged among them
    seconds: float
    log_likelihood: bool  # whether the loss is -log p of a token

    @property
    def perplexity(self) -> float | None:
        """exp(loss) of a language model: between how many tokens it is as undecided. None of other losses."""
        return math.exp(min(self.loss, 700.0)) if self.log_likelihood else None  # beyond, a float overflows


@dataclass
class Metrics:
    """One iteration. Losses are nats per valid token over the whole global batch; null where there was none.

    A figure that is not finite is written as null too.
    `mfu` is None on a CPU, where no data sheet says what the peak is and a measured one is noise.
    """

    iteration: int
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens: int
    tokens_per_second: float
    mfu: float | None
    step_seconds: float
    data_seconds: float
    memory_bytes: int
    task_loss: dict[str, float]
    task_tokens: dict[str, int]
    task_documents: dict[str, int]
    task_epochs: dict[str, float]
    loss_scale: float
    skipped: str = ""  # why no update was made, as Learned says it; "" where one was
    bad_steps: int = 0  # so far
    ranks: dict[str, float] = field(default_factory=dict)  # seconds without collectives: median, most; slowest: a rank
    seen: dict[str, float] = field(default_factory=dict)  # by the objective, beside its loss
    evaluated: Evaluated | None = None  # on held-out data, after this iteration


def readable_time(seconds: float) -> str:
    """1:02:03, or 2d 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"


def readable_line(metrics: Metrics, train_iters: int, eta_seconds: float, number: int = 0) -> str:
    """The line a person reads, at most LINE_WIDTH columns wide: what matters least comes last and gives way.

    Datasets whose losses do not all fit take turns by the line's `number`.
    """
    loss, norm, waiting = metrics.loss, metrics.grad_norm, metrics.data_seconds / max(metrics.step_seconds, 1e-9)
    skipped_over = loss is None and bool(metrics.skipped)
    shown_loss = "no tokens" if loss is None else f"loss {loss:.4f}" if loss < 1e4 else f"loss {loss:.2e}"
    if metrics.skipped:
        gradient = f"skipped ({metrics.skipped})"
    elif norm is None:
        gradient = "no gradient"
    else:
        gradient = f"grad norm {norm:.3f}" if norm < 1e3 else f"grad norm {norm:.2e}"
    parts = [
        f"iter {metrics.iteration}/{train_iters}",
        *([] if skipped_over else [shown_loss]),
        f"lr {metrics.lr:.2e}",
        gradient,
        *([] if metrics.loss_scale == 1 else [f"scale {metrics.loss_scale:g}"]),
        f"{metrics.tokens_per_second:,.0f} tok/s",
        f"eta {readable_time(eta_seconds)}",
        *([] if metrics.mfu is None else [f"mfu {metrics.mfu:.0%}"]),
        f"mem {metrics.memory_bytes / 1e9:.1f} GB",
        *([f"data {waiting:.0%}"] if waiting >= 0.05 else []),  # the loader holds the run up
    ]
    while columns(" | ".join(parts)) > LINE_WIDTH:
        parts.pop()
    if len(metrics.task_tokens) > 1:
        losses = [f"{task} {loss:.3f}" for task, loss in metrics.task_loss.items()]
        first = number % len(losses) if losses else 0
        losses = losses[first:] + losses[:first]
        parts += as_many_as_fit(losses, LINE_WIDTH - columns(" | ".join(parts)) - len(" | "))
    return " | ".join(parts)


def finite(value: Any) -> Any:
    """`value` with None for each float in it that is not finite: JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drop_later_lines(path: Path, iteration: int) -> None:
    """Cut metrics.jsonl after `iteration`, so that a resumed run writes each iteration once.

    What is cut is kept beside it, as metrics.superseded-<n>.jsonl; a line that a kill left half written is not.
    """
    if not path.exists():
        return
    lines = _lines(path)
    kept = [line for number, line in enumerate(lines, 1) if _iteration(line, number, path) <= iteration]
    later = lines[len(kept) :]
    if later:
        number = 1 + len(list(path.parent.glob("metrics.superseded-*.jsonl")))
        write_text(path.with_name(f"metrics.superseded-{number}.jsonl"), "".join(later))
    write_text(path, "".join(kept))


def _lines(path: Path) -> list[str]:
    """The whole lines; one that a kill left half written is none."""
    try:
        whole = path.read_bytes().split(b"\n")[:-1]
        return [line.decode("utf-8") + "\n" for line in whole]
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away") from None


def _iteration(line: str, number: int, path: Path) -> int:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}, line {number}: holds no iteration's metrics: move the file away") from None


def metrics_of(path: Path) -> Iterator[dict[str, Any]]:
    """The iterations of a metrics.jsonl, one at a time; none where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):  # a kill may have left it half written
                yield json.loads(line)


def _line(metrics: Metrics) -> str:
    told = dataclasses.asdict(metrics)
    del told["evaluated"]
    return _json_line(told | _of_evaluation(metrics.evaluated))


def _of_evaluation(evaluated: Evaluated | None) -> dict[str, Any]:
    """What a line says of it."""
    return {
        "eval_loss": evaluated and evaluated.loss,
        "eval_perplexity": evaluated and evaluated.perplexity,
        "eval_task_loss": evaluated.task_loss if evaluated else {},
        "eval_seen": evaluated.seen if evaluated else {},
    }


def _json_line(told: dict[str, Any]) -> str:
    return json.dumps(finite(told), ensure_ascii=False, allow_nan=False) + "\n"


class MetricsWriter:
    """Writes metrics.jsonl and TensorBoard events from `first_iteration` on; for rank 0."""

    def __init__(self, logs: Path, tensorboard: Path, first_iteration: int, all_tasks: bool) -> None:
        self._path = logs / "metrics.jsonl"
        drop_later_lines(self._path, first_iteration - 1)
        self._lines = AppendedLines(self._path)
        self._board = Board(tensorboard, first_iteration)
        self._all_tasks = all_tasks
        self._failing: set[str] = set()

    @contextlib.contextmanager
    def _if_it_can(self, what: str, then: str) -> Iterator[None]:
        """A disk that is full or gone does not end a run that learns: what fails is said once, and when it works
        again."""
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                tell(f"warning: {what} cannot be written ({error}): the run goes on, and {then}")
            self._failing.add(what)
        else:
            if what in self._failing:
                tell(f"{what} can be written again")
            self._failing.discard(what)

    def write(self, metrics: Metrics) -> None:
        """Record one iteration."""
        with self._if_it_can("metrics.jsonl", "lines are kept until they can be"):
            self._lines.add(_line(metrics))
        self._add_scalars(self._scalars(metrics), metrics.iteration)
        if metrics.evaluated is not None:
            self.write_evaluated(metrics.evaluated, metrics.iteration)

    def write_bad_step(self, iteration: int, fault: str, documents: dict[str, list[int]]) -> None:
        """Add a line to bad_steps.jsonl, beside metrics.jsonl."""
        line = json.dumps({"iteration": iteration, "fault": fault, "documents": documents}, ensure_ascii=False)
        with (
            self._if_it_can(BAD_STEPS_FILE, "its lines are lost"),
            self._path.with_name(BAD_STEPS_FILE).open("a", encoding="utf-8") as file,
        ):
            file.write(line + "\n")

    def write_late(self, metrics: Metrics, evaluated: Evaluated) -> None:
        """Record an evaluation of the iteration that was written last."""
        metrics.evaluated = evaluated
        with self._if_it_can("metrics.jsonl", "lines are kept until they can be"):
            self._lines.replace_last(_line(metrics))
        self.write_evaluated(evaluated, metrics.iteration)

    def write_owed(self, evaluated: Evaluated, iteration: int) -> None:
        """Record an evaluation of an iteration whose line another process has written."""
        lines = _lines(self._path)
        if lines and _iteration(lines[-1], len(lines), self._path) == iteration:
            with self._if_it_can("metrics.jsonl", "an evaluation is missing in it"):
                self._lines.replace_last(_json_line(json.loads(lines[-1]) | _of_evaluation(evaluated)))
        self.write_evaluated(evaluated, iteration)

    def write_evaluated(self, evaluated: Evaluated, iteration: int) -> None:
        """Record an evaluation in TensorBoard alone."""
        scalars = {"Loss/eval": evaluated.loss, "Eval/perplexity": evaluated.perplexity}
        scalars |= {f"Eval/{name}": value for name, value in evaluated.seen.items()}
        tasks = evaluated.task_loss if self._all_tasks else {}
        self._add_scalars(scalars | {f"Loss/eval_task/{task}": loss for task, loss in tasks.items()}, iteration)

    def _scalars(self, metrics: Metrics) -> dict[str, Any]:
        scalars: dict[str, Any] = {
            "Loss/train": metrics.loss,
            "Optimizer/lr": metrics.lr,
            "Optimizer/grad_norm": metrics.grad_norm,
            "Optimizer/loss_scale": metrics.loss_scale,
            "Optimizer/bad_steps": metrics.bad_steps,
            "Speed/tokens_per_second": metrics.tokens_per_second,
            "Speed/mfu": metrics.mfu,
            "Speed/step_seconds": metrics.step_seconds,
            "Speed/data_seconds": metrics.data_seconds,
            **{f"Speed/ranks_{name}": value for name, value in metrics.ranks.items()},
            "Data/tokens": metrics.tokens,
            **{f"Objective/{name}": value for name, value in metrics.seen.items()},
        }
        if self._all_tasks:
            scalars |= {f"Loss/task/{task}": loss for task, loss in metrics.task_loss.items()}
            scalars |= {f"Data/task_tokens/{task}": count for task, count in metrics.task_tokens.items()}
            scalars |= {f"Data/task_documents/{task}": count for task, count in metrics.task_documents.items()}
            scalars |= {f"Data/task_epochs/{task}": count for task, count in metrics.task_epochs.items()}
        return scalars

    def write_samples(self, samples: Sequence[tuple[str, str]], iteration: int) -> None:
        """Record what followed prompts, in TensorBoard: as code, in which Markdown means nothing."""
        for number, (prompt, said) in enumerate(samples):
            text = "\n".join(f"    {line}" for line in f"{prompt}\n=> {said}".splitlines())
            with self._if_it_can("TensorBoard's file", _IN_ANOTHER):
                self._board.add_text(f"Samples/{number}", text, iteration)

    def write_summary(self, summary: list[dict[str, Any]], iteration: int) -> None:
        """Record the parameter and gradient summary of `summarize`."""
        for item in summary:
            keys = ("std", "mean", "max", "min", "grad_std", "grad_mean")
            self._add_scalars({f"Parameters/{item['name']}/{key}": float(item[key]) for key in keys}, iteration)

    def _add_scalars(self, scalars: dict[str, Any], iteration: int) -> None:
        """A gap in the curve where there is no finite value."""
        points = {name: value for name, value in scalars.items() if finite(value) is not None}
        with self._if_it_can("TensorBoard's file", _IN_ANOTHER):
            self._board.add_scalars(points, iteration)

    def close(self) -> None:
        """Flush everything."""
        with self._if_it_can("metrics.jsonl", "lines that wait are lost"):
            self._lines.close()
        with self._if_it_can("TensorBoard's file", _IN_ANOTHER):
            self._board.close()
