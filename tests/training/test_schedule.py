"""Learning rates, against formulas written here once more."""

import math

import pytest

from fm9g.training.schedule import learning_rate, resume_ramp
from fm9g.training.settings import Settings

LR, ITERS, WARMUP = 0.02, 200, 10


def rates(**changes):
    settings = Settings(**{"lr": LR, "train_iters": ITERS, "warmup_iters": WARMUP, **changes})
    return {i: learning_rate(settings, i) for i in range(1, ITERS + 1)}


@pytest.mark.parametrize("scheduler", ["cosine", "warmupstabledrop", "warmupstableexp"])
def test_the_warm_up_is_linear_and_never_zero(scheduler):
    found = rates(lr_scheduler=scheduler)
    assert [found[i] for i in range(1, WARMUP + 1)] == pytest.approx([LR * i / WARMUP for i in range(1, WARMUP + 1)])


def test_cosine_falls_to_a_tenth_at_the_end():
    found = rates()
    for i in range(WARMUP, ITERS + 1):
        turned = math.pi * (i - WARMUP) / (ITERS - WARMUP)
        assert found[i] == pytest.approx(LR * 0.1 + LR * 0.9 * (math.cos(turned) + 1) / 2)
    assert found[ITERS] == pytest.approx(LR / 10)
    assert found[(ITERS + WARMUP) // 2] == pytest.approx(LR * 0.55)


def test_warmupstabledrop_is_flat_and_then_linear_to_a_tenth():
    found = rates(lr_scheduler="warmupstabledrop", drop_iters=50)
    assert {found[i] for i in range(WARMUP, 151)} == {LR}
    for i in range(151, ITERS + 1):
        assert found[i] == pytest.approx(LR - 0.9 * LR * (i - 150) / 50)
    assert found[ITERS] == pytest.approx(LR / 10)


def test_warmupstabledrop_stays_at_a_tenth_after_an_early_drop():
    found = rates(lr_scheduler="warmupstabledrop", drop_iters=20, drop_begin=100)
    assert found[100] == LR
    assert found[110] == pytest.approx(0.55 * LR)
    assert [found[i] for i in range(120, 201, 20)] == pytest.approx([LR / 10] * 5)


def test_warmupstableexp_multiplies_by_drop_rate_every_drop_iters():
    found = rates(lr_scheduler="warmupstableexp", drop_iters=30, drop_begin=80, drop_rate=0.4)
    assert {found[i] for i in range(WARMUP, 81)} == {LR}
    for i in range(81, ITERS + 1):
        assert found[i] == pytest.approx(LR * math.exp(math.log(0.4) * (i - 80) / 30))
    assert found[110] == pytest.approx(0.4 * LR)


def test_fractions_are_of_train_iters():
    assert rates(warmup_iters=0.05) == rates(warmup_iters=10)
    options = {"lr_scheduler": "warmupstabledrop"}
    assert rates(drop_iters=0.25, **options) == rates(drop_iters=50, **options)


def test_without_warm_up_the_first_step_has_the_peak():
    assert rates(warmup_iters=0, lr_scheduler="warmupstabledrop")[1] == LR
    assert rates(warmup_iters=0)[1] == pytest.approx(LR, rel=1e-3)


def test_a_warm_up_as_long_as_the_run():
    assert rates(warmup_iters=ITERS)[ITERS] == LR


def test_the_rate_after_a_resume_rises_from_zero():
    settings = Settings(resume_no_optimze=4)
    assert [resume_ramp(settings, since) for since in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_without_resume_no_optimze_there_is_no_ramp():
    assert resume_ramp(Settings(), 0) == 1
