"""The iterations of a run: what is told and saved, and the way back where training diverges."""

import pytest

from fm9g.errors import UserError
from tests.support.runs_here import train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")


def test_every_iteration_is_in_the_metrics_and_every_second_in_the_log(place, tmp_path):
    run = train_here(place, tmp_path, train_iters=5, log_iters=2)
    assert [line["iteration"] for line in run.metrics()] == [1, 2, 3, 4, 5]
    assert [f"iter {i}/5" in run.log for i in range(1, 6)] == [False, True, False, True, True]


def test_it_saves_when_due_and_at_the_end(place, tmp_path):
    assert train_here(place, tmp_path / "a", train_iters=5, save_iters=2).steps() == [2, 4, 5]
    assert train_here(place, tmp_path / "b", train_iters=4, save_iters=2).steps() == [2, 4]


def test_where_training_diverges_the_last_checkpoint_is_the_way_back(place, tmp_path):
    with training_here(place, tmp_path, train_iters=5, save_iters=2, max_bad_steps=1) as loop:
        step, saved = loop.learner.step, []

        def failing(batch, counts, inspect):
            if batch.step == 3:
                dict(loop.learner.model.named_parameters())["input_embedding.weight"].data[:] = float("nan")
            saved.append(batch.step)
            return step(batch, counts, inspect)

        loop.learner.step = failing
        with pytest.raises(UserError) as error:
            loop.run()
    assert saved == [0, 1, 2, 3]
    assert str(error.value).startswith("iteration 4: loss nan, gradient norm nan: training has diverged")
    assert f"resume the last checkpoint ({tmp_path / 'checkpoints/u/2'})" in str(error.value)
