"""Optimisation: defaults, what is refused, and what each setting does."""

import math

import pytest
import torch

from fm9g.data.stream.forecast import places_of_a_pass
from fm9g.errors import UserError
from fm9g.runtime import bmt
from fm9g.training import bad_steps
from fm9g.training.inputs import open_inputs
from fm9g.training.optimizer_settings import OptimizerSettings
from fm9g.training.schedule import learning_rate
from fm9g.training.settings import read_settings
from tests.settings.helpers import FROZEN, defaults, iterations, rates, read, refused, sees
from tests.support.runs_here import APP, train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {
    "objective": "pretrain",
    "train_iters": 10000,
    "lr": 0.01,
    "lr_scheduler": "cosine",
    "warmup_iters": 20,
    "warmup_ratio": None,
    "num_train_epochs": None,
    "drop_iters": 0.1,
    "drop_begin": -1,
    "drop_rate": 0.5,
    "weight_decay": 0.1,
    "betas": (0.9, 0.95),
    "adam_eps": 1e-8,
    "clip_grad": 1.0,
    "offload": None,
    "loss_scale": None,
    "loss_scale_factor": 2.0,
    "loss_scale_steps": 1024,
    "min_loss_scale": 1.0,
    "max_bad_steps": 5,
    "outlier_sigma": None,
    "skip_iters": None,
}


def norm(state, moment):
    return math.sqrt(sum(float(item[moment].double().square().sum()) for item in state.values()))


def test_defaults():
    assert defaults(OptimizerSettings) == DEFAULTS


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--lr_scheduler", "cosin"],
            "lr_scheduler must be one of cosine, warmupstabledrop, warmupstableexp, "
            "not 'cosin' (did you mean 'cosine'?)",
        ),
        (["--betas", "(0.9, 1.0)"], "betas must be in [0, 1)"),
        (["--adam_eps", "0"], "adam_eps must be at least 1e-30 and at most 1, not 0"),
        (["--warmup_iters", "30", "--train_iters", "20"], "warmup_iters (30) is beyond train_iters (20)"),
        (["--lr_scheduler", "warmupstabledrop", "--drop_iters", "0"], "needs drop_iters of at least one iteration"),
        (
            ["--lr_scheduler", "warmupstabledrop", "--drop_iters", "100", "--train_iters", "50"],
            "drop_iters 100 of train_iters 50: the drop would begin before the run",
        ),
        (["--loss_scale_factor", "1"], "loss_scale_factor must be finite and above 1"),
        (["--loss_scale_factor", "inf"], "loss_scale_factor must be finite and above 1"),
        (["--loss_scale_steps", "0"], "loss_scale_steps must be at least 1, not 0"),
        (["--drop_begin", "-7"], "drop_begin must be at least -1, not -7"),
        (["--train_iters", "0"], "train_iters must be at least 1, not 0"),
        (["--lr", "-1"], "lr must be at least 0 and at most 1e+30, not -1"),
        (["--clip_grad", "-1"], "clip_grad must be finite and at least 0, not -1"),
        (["--max_bad_steps", "0"], "max_bad_steps must be at least 1, not 0"),
        (["--outlier_sigma", "0"], "outlier_sigma must be finite and above 0, not 0"),
        (["--skip_iters", "3,5-x"], "skip_iters: '5-x' is neither an iteration nor a span as 1200-1250"),
        (["--skip_iters", "9-7"], "skip_iters: '9-7' is neither"),
        (["--weight_decay", "-0.1"], "weight_decay must be finite and at least 0, not -0.1"),
    ],
)
def test_values_that_no_run_can_have_are_refused(words, says):
    assert says in refused(*words)


@sees("offload")
def test_offload_gives_the_same_numbers(place, plain, run, tmp_path):
    assert run(offload=1).losses() == pytest.approx(plain.losses(), rel=1e-6)
    with training_here(place, tmp_path / "o", offload=True) as training:
        assert isinstance(training.learner.optimizer, bmt.optim.AdamOffloadOptimizer)


@sees("train_iters")
def test_train_iters_ends_the_run_and_saves_there(run):
    for end in (0, 1):
        found = run(train_iters=3, stop_when_end=end)
        assert iterations(found) == [1, 2, 3]
        assert found.steps() == [3]


@sees("num_train_epochs")
def test_the_length_of_a_run_in_epochs(place, tmp_path):
    whole = train_here(place, tmp_path / "whole", num_train_epochs=2, train_iters=None, save_iters=3)
    inputs = open_inputs(read_settings(place.words(tmp_path, num_train_epochs=2, train_iters=None)), APP)
    assert whole.metrics()[-1]["tokens"] == pytest.approx(2 * places_of_a_pass(inputs.corpora), rel=0.05)
    assert len(whole.losses()) == inputs.settings.train_iters
    assert "num_train_epochs 2 of about" in inputs.settings.source("train_iters")
    assert "both say how long the run is" in refused("--train_iters", "5", "--num_train_epochs", "2")


@sees("warmup_ratio")
def test_the_warm_up_as_a_ratio():
    ratio = read("--train_iters", "80", "--warmup_ratio", "0.5")
    plain = read("--train_iters", "80", "--warmup_iters", "40")
    assert [learning_rate(ratio, i) for i in range(1, 81)] == [learning_rate(plain, i) for i in range(1, 81)]
    message = "warmup_iters and warmup_ratio say the same"
    assert message in refused("--warmup_iters", "3", "--warmup_ratio", "0.1")


@sees("lr", "warmup_iters", "lr_scheduler", "drop_iters", "drop_begin", "drop_rate")
def test_the_schedule_is_what_the_settings_say(run):
    found = run(
        **{"lr": 0.01, "warmup_iters": 2, "lr_scheduler": "WarmupStableExp", "train_iters": 8},
        **{"drop_iters": 2, "drop_begin": 4, "drop_rate": 0.25},
    )
    assert rates(found) == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.005, 0.0025, 0.00125, 0.000625])
    dropped = run(lr=0.01, warmup_iters=0, lr_scheduler="warmupstabledrop", train_iters=10, drop_iters=0.2)
    assert rates(dropped) == pytest.approx([0.01] * 8 + [0.0055, 0.001])


@sees("lr", "weight_decay")
def test_the_first_update_is_adamws(run):
    """|update| is lr for every element that has a gradient, and the decay is lr · weight_decay · weight."""
    start = run(**FROZEN, warmup_iters=0, train_iters=1).weights(1)
    plain = run(lr=1e-3, warmup_iters=0, weight_decay=0, train_iters=1)
    decayed = run(lr=1e-3, warmup_iters=0, weight_decay=0.5, train_iters=1)
    rate = rates(plain)[0]
    for name, weight in plain.weights(1).items():
        assert (weight - start[name]).abs().max() == pytest.approx(rate, rel=1e-2)
        torch.testing.assert_close(decayed.weights(1)[name], weight - rate * 0.5 * start[name], rtol=1e-4, atol=1e-6)


@sees("adam_eps")
def test_adam_eps_stands_beside_the_root_of_the_second_moment(run):
    """The first update is lr · g / (|g| + eps)."""
    start = run(**FROZEN, warmup_iters=0, train_iters=1).weights(1)
    found = run(lr=1e-2, warmup_iters=0, weight_decay=0, clip_grad=0, adam_eps=1e-3, train_iters=1)
    for name, weight in found.weights(1).items():
        gradient = found.optimizer(1)[name]["exp_avg"].view(weight.shape) / (1 - 0.9)
        expected = start[name] - rates(found)[0] * gradient / (gradient.abs() + 1e-3)
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)


@sees("betas", "clip_grad")
def test_betas_and_clip_grad_show_in_the_first_moments(run):
    options = {"train_iters": 1, "warmup_iters": 0}
    free = run(**options, clip_grad=0, betas="(0.5, 0.75)")
    (gradient,) = [line["grad_norm"] for line in free.metrics()]
    assert norm(free.optimizer(1), "exp_avg") == pytest.approx(0.5 * gradient, rel=1e-4)
    clipped = run(**options, clip_grad=0.125, betas="(0.9, 0.75)")
    assert clipped.metrics()[0]["grad_norm"] == pytest.approx(gradient)  # as it was before clipping
    assert norm(clipped.optimizer(1), "exp_avg") == pytest.approx(0.1 * 0.125, rel=1e-3)
    second = [run.optimizer(1)["lm_head.weight"]["exp_avg_sq"].sum() for run in (free, clipped)]
    assert float(second[0] / second[1]) == pytest.approx((gradient / 0.125) ** 2, rel=1e-2)


@sees("loss_scale", "loss_scale_factor", "loss_scale_steps", "min_loss_scale")
def test_the_loss_scale_falls_on_overflow_and_rises_again(place, run):
    config = place.write_model("half", dtype="fp16")
    overflowing = run(config=config, loss_scale=2**40, loss_scale_factor=4, loss_scale_steps=2, train_iters=16)
    lines = overflowing.metrics()
    scales = [line["loss_scale"] for line in lines]
    assert scales[:3] == [2**40, 2**38, 2**36]
    assert lines[0]["grad_norm"] is None
    assert "skipped (overflow)" in overflowing.log
    first = next(i for i, line in enumerate(lines) if line["grad_norm"] is not None)
    assert scales[first : first + 3] == [scales[first], scales[first], 4 * scales[first]]
    with pytest.raises(
        UserError, match=r"iteration 2: loss .* with the loss scale at its minimum, .*: training has diverged"
    ):  # 2**30 is below the least
        run(config=config, loss_scale=2**40, loss_scale_factor=2**10, min_loss_scale=2**35, max_bad_steps=1)
    assert [line["loss_scale"] for line in run(config=config).metrics()] == [65536.0] * 4
    assert [line["loss_scale"] for line in run(config=config, loss_scale=0).metrics()] == [1.0] * 4


@sees("skip_iters")
def test_iterations_are_jumped_over(run):
    lines = run(skip_iters="1-2, 4").metrics()
    assert [line["skipped"] for line in lines] == ["skip_iters", "skip_iters", "", "skip_iters"]
    assert [line["loss"] is None for line in lines] == [True, True, False, True]
    assert [line["tokens"] > 0 for line in lines] == [True] * 4  # their data is read


@sees("outlier_sigma")
def test_outliers_are_not_learned_from(run, monkeypatch):
    monkeypatch.setattr(bad_steps, "FEWEST", 2)
    lines = run(outlier_sigma=1e-3, train_iters=8, lr=1e-4, max_bad_steps=8).metrics()
    skipped = [line["skipped"] for line in lines]
    assert skipped[:2] == ["", ""]
    assert "bad step" in skipped
    assert not any(line["skipped"] for line in run(train_iters=8, lr=1e-4).metrics())


@sees("max_bad_steps")
def test_so_many_bad_steps_end_a_run(run):
    for most in (1, 2):
        with pytest.raises(UserError, match=f"iteration {most + 1}: loss .* training has diverged") as error:
            run(lr=1e30, clip_grad=0, warmup_iters=0, train_iters=50, max_bad_steps=most)
        assert ("bad steps in a row" in str(error.value)) == (most > 1)
