"""The model: defaults, what is refused, and what each setting does."""

import pytest

from fm9g.model.settings import ModelSettings
from fm9g.runtime import bmt
from tests.settings.helpers import defaults, refused, sees
from tests.support.runs_here import train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {
    "config": "7b",
    "eps": None,
    "flash": "cuda",
    "use_checkpoint": False,
    "neft_alpha": 0.0,
    "shift_attn": False,
}


def test_defaults():
    assert defaults(ModelSettings) == DEFAULTS


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--flash", "1d"], "flash=1d is no longer there: use flash=cuda"),
        (["--flash", "triton"], "flash=triton is no longer there: use flash=cuda"),
        (["--flash", "cude"], "flash must be cuda or none, not 'cude' (did you mean 'cuda'?)"),
    ],
)
def test_values_that_no_run_can_have_are_refused(words, says):
    assert says in refused(*words)


@sees("config")
def test_config_names_the_model_and_its_train_config(place, run):
    config = place.write_model("wide", dim_ff=96)
    (place.root / "train_configs").mkdir(exist_ok=True)
    (place.root / "train_configs/wide.json").write_text('{"pretrain": {"weight_decay": 0.77}}')
    found = run(config=config, train_iters=2).state(2)
    assert (found["model"]["dim_ff"], found["settings"]["weight_decay"]) == (96, 0.77)


@sees("eps")
def test_eps_overrides_the_model_config(plain, run):
    assert plain.state(4)["model"]["eps"] == 1e-5
    other = run(eps=0.5)
    assert other.state(4)["model"]["eps"] == 0.5
    assert other.losses()[1:] != plain.losses()[1:]


@sees("neft_alpha")
def test_embeddings_get_noise_that_a_resumed_run_draws_on(plain, run, place, tmp_path):
    whole = run(neft_alpha=5)
    assert whole.losses() != plain.losses()
    train_here(place, tmp_path / "half", neft_alpha=5, save_iters=2)
    rest = train_here(place, tmp_path / "half", neft_alpha=5, resume_ckpt=2)
    assert rest.losses() == whole.losses()


@sees("shift_attn")
def test_long_documents_are_attended_to_in_groups_where_the_model_learns_alone(plain, run):
    shifted = run(shift_attn=1)
    assert shifted.losses() != plain.losses()
    assert run(shift_attn=1, max_length=64, use_checkpoint=1).losses() == pytest.approx(shifted.losses(), rel=1e-6)


def test_groups_of_one_token_are_refused():
    assert "shift_attn needs a max_length of 8 at least, not 7" in refused("--shift_attn", "1", "--max_length", "7")


@sees("flash")
def test_flash_chooses_the_kernel(plain, run):
    reference = run(flash="none")
    assert "plain attention" in reference.log
    assert "plain attention" not in plain.log
    assert reference.losses() == pytest.approx(plain.losses(), rel=1e-5)


@sees("use_checkpoint")
def test_use_checkpoint_recomputes_and_changes_nothing(place, plain, run, tmp_path):
    assert run(use_checkpoint=1).losses() == pytest.approx(plain.losses(), rel=1e-6)
    with training_here(place, tmp_path / "used", use_checkpoint=1) as training:
        assert all(block._use_checkpoint for block in blocks(training))
    with training_here(place, tmp_path / "unused") as training:
        assert not any(block._use_checkpoint for block in blocks(training))


def blocks(training):
    return [module for module in training.learner.model.modules() if isinstance(module, bmt.Block)]
