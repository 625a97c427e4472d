"""The picture of a run's losses."""

import pytest

from fm9g.training import loss_plot
from fm9g.training.loss_plot import plot_loss, smoothed


def test_a_smoothed_course_keeps_a_constant_and_follows_a_step():
    assert smoothed([3.0] * 5) == pytest.approx([3.0] * 5)
    course = smoothed([3.0] * 20 + [1.0] * 60)
    assert course[19] == pytest.approx(3) and 2.7 < course[20] < 2.9 and course[-1] == pytest.approx(1, abs=0.01)
    assert smoothed([]) == []


def test_what_is_drawn_is_the_history(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(loss_plot, "write_png", lambda path, figure: figures.append(figure))
    losses = {1: 5.0, 2: None, 3: 4.0}
    history = [{"step": step, "loss": loss} for step, loss in losses.items()]
    plot_loss(tmp_path / "a.png", [*history, {"step": 2, "eval_loss": 4.5}])
    lines = {line.get_label(): line.get_xydata().tolist() for line in figures[0].axes[0].lines}
    assert lines["training"] == [[1, 5], [3, 4]]
    assert lines["held out"] == [[2, 4.5]]


def test_a_run_without_losses_has_an_empty_picture(tmp_path):
    plot_loss(tmp_path / "a.png", [])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
