"""What an objective costs to add: a file and a line, and it is trained, evaluated, reported and resumed."""

import pytest
import torch

from fm9g.data.stream.strip import IGNORED, Strip
from fm9g.model.config import ModelConfig
from fm9g.model.decoder import Decoder
from fm9g.objectives import OBJECTIVES, Named, find_objective
from fm9g.objectives.base import sums_by_piece
from fm9g.runtime import bmt
from fm9g.training.settings import Settings
from tests.settings.helpers import refused, sees
from tests.support.outputs import copy_output
from tests.support.runs_here import train_here

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture
def z_loss(monkeypatch):
    """The one line."""
    monkeypatch.setitem(OBJECTIVES, "z_loss", Named("tests.objectives.z_loss:ZLoss", "a toy", "玩具"))
    return {"objective": "z_loss"}


def test_sums_by_piece_are_those_of_slices():
    values = torch.arange(10.0, dtype=torch.float64)
    assert sums_by_piece(values, [3, 1, 6]).tolist() == [3.0, 3.0, 39.0]


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_pieces_cost_is_what_all_costs(name, alike):
    """And a piece without units costs nothing, so that a loss by task is a mean over its own units."""
    model = Decoder(ModelConfig(vocab_size=50, dim_model=16, num_heads=2, num_layers=1, dim_ff=24, dtype="float32"))
    bmt.init_parameters(model)
    objective = find_objective(name)(model, Settings())
    lengths, targets = [3, 2, 4, 1], torch.randint(50, (10,))
    targets[3:5] = targets[9] = IGNORED
    weights = None if alike else torch.rand(10) * (targets != IGNORED)
    strip = Strip(torch.randint(50, (10,)), targets, lengths, [0, 1, 0, -1], [0, 0, 0, 0], weights)
    cost, units = objective.cost(strip, model.context(lengths)), objective.units(strip)
    assert cost.losses.sum().item() == pytest.approx(cost.total.item(), rel=1e-6)
    assert [loss == 0 for loss in cost.losses.tolist()] == [count == 0 for count in units]
    assert sum(units) > 0


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
    settings = {**z_loss, "eval_dataset": place.mixture, "allow_overlap": 1, "eval_interval": 2, "save_iters": 1}
    whole = train_here(place, tmp_path / "whole", **settings)
    own = copy_output(whole, tmp_path / "own")
    train_here(place, own.root, **settings, resume_ckpt=3)
    assert own.metrics()[3]["eval_seen"] == whole.metrics()[3]["eval_seen"]
    assert own.learned() == whole.learned()


def test_an_unknown_objective_is_refused_before_anything_starts():
    assert "objective must be one of pretrain, not 'pretrian' (did you mean 'pretrain'?)" in refused(
        "--objective", "pretrian"
    )
