"""What an objective costs to add: a file and a line, and it is trained, evaluated, reported and resumed."""

import pytest
import torch

from fm9g.objectives import OBJECTIVES, find_objective
from fm9g.objectives.base import sums_by_piece
from tests.settings.helpers import refused, sees
from tests.support.outputs import copy_output
from tests.support.runs_here import train_here

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture
def z_loss(monkeypatch):
    """The one line."""
    monkeypatch.setitem(OBJECTIVES, "z_loss", "tests.objectives.z_loss:ZLoss")
    return {"objective": "z_loss"}


def test_sums_by_piece_are_those_of_slices():
    values = torch.arange(10.0, dtype=torch.float64)
    assert sums_by_piece(values, [3, 1, 6]).tolist() == [3.0, 3.0, 39.0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_of_the_table_is_there(name):
    assert find_objective(name).cost.__doc__


@sees("objective")
def test_an_objective_of_ones_own_is_trained_and_told(place, tmp_path, z_loss):
    plain = train_here(place, tmp_path / "plain", train_iters=1, warmup_iters=0)
    found = train_here(place, tmp_path / "z", **z_loss, train_iters=1, warmup_iters=0)
    (line,), (before,) = found.metrics(), plain.metrics()
    log_z = line["seen"]["log_z"]
    assert 5 < log_z < 7  # of new weights about log(320)
    assert line["loss"] == pytest.approx(before["loss"] + 1e-2 * log_z**2, rel=1e-3)
    assert found.events()["Objective/log_z"][0][1] == pytest.approx(log_z, rel=1e-6)
    assert before["seen"] == {}


def test_it_is_evaluated_and_resumed_as_any(place, tmp_path, z_loss):
    settings = {**z_loss, "eval_dataset": place.mixture, "eval_interval": 2, "save_iters": 1}
    whole = train_here(place, tmp_path / "whole", **settings)
    own = copy_output(whole, tmp_path / "own")
    train_here(place, own.root, **settings, resume_ckpt=3)
    assert own.metrics()[3]["eval_seen"] == whole.metrics()[3]["eval_seen"]
    assert own.learned() == whole.learned()


def test_an_unknown_objective_is_refused_before_anything_starts():
    assert "objective must be one of pretrain, not 'pretrian' (did you mean 'pretrain'?)" in refused(
        "--objective", "pretrian"
    )
