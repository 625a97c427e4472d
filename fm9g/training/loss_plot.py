"""The losses of a run as a picture: each step's, their course without the noise, and the held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm9g.figures import new_figure, write_png

_SMOOTH = 0.9  # the weight of what came before


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential means from the first value on, each divided by the sum of its weights, so that none leans to 0."""
    total, weight, means = 0.0, 0.0, []
    for loss in losses:
        total, weight = _SMOOTH * total + loss, _SMOOTH * weight + 1
        means.append(total / weight)
    return means


def plot_loss(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the log_history of trainer_state.json as a PNG; UserError where matplotlib is missing."""
    trained, held_out = _points(history, "loss"), _points(history, "eval_loss")
    figure = new_figure(8, 5)
    axes = figure.subplots()
    if trained:
        steps, losses = zip(*trained, strict=True)
        axes.plot(steps, losses, color="tab:blue", alpha=0.3, label="training")
        axes.plot(steps, smoothed(losses), color="tab:blue", label="training, smoothed")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="tab:orange", marker="o", label="held out")
    if trained or held_out:
        axes.legend()
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    write_png(path, figure)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
