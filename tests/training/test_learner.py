"""What a step makes of the weights, and when it ends a run."""

import pytest

from fm9g.model.decoder import Decoder
from tests.support.outputs import Output
from tests.support.runs_here import refused_here

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "float32"])
def test_a_loss_that_no_scale_explains_ends_the_run(place, tmp_path, monkeypatch, dtype):
    forward = Decoder.loss

    def overflowing(model, *arguments):
        total, each = forward(model, *arguments)
        return total * float("nan"), each * float("nan")

    monkeypatch.setattr(Decoder, "loss", overflowing)
    message = refused_here(place, tmp_path, config=place.write_model(dtype, dtype=dtype), save_iters=1, max_bad_steps=1)
    assert message.startswith("iteration 1: loss nan, gradient norm nan: training has diverged. The weights were not ")
    assert "nothing is saved; there is no checkpoint of this run yet: start it anew" in message
    assert ("bf16, whose range is wider" in message) == (dtype == "fp16")
    assert Output(tmp_path).steps() == []
