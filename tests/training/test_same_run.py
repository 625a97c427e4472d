"""What must not differ between the ranks of a run, and between a run and the checkpoint that it goes on from."""

import json

import pytest

from fm9g.training.inputs import open_inputs
from fm9g.training.same_run import check_ranks, what_decides
from fm9g.training.settings import read_settings
from tests.support.apps import start_program
from tests.support.outputs import copy_output
from tests.support.ranks import REPOSITORY, finish
from tests.support.runs_here import APP, refused_here, train_here

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture(scope="module")
def finished(place, single_rank, tmp_path_factory):
    return train_here(place, tmp_path_factory.mktemp("finished"), train_iters=2, save_iters=2)


@pytest.mark.parametrize(
    "change",
    [
        {"base": 5000.0},
        {"activate_fn": "gelu"},
        {"scale": True},
        {"eps": 1e-6},
        {"num_heads": 1, "dim_head": 32},
        {"rope_scaling_type": "linear", "rope_scaling_factor": 2.0},
        {"dtype": "bf16"},
        {"sliding_window": 16},
        {"logit_softcap": 30.0},
    ],
)
def test_a_resume_with_another_model_config_is_refused(place, finished, tmp_path, change):
    output = copy_output(finished, tmp_path / "out")
    config = place.write_model("other", **change)
    said = refused_here(place, output.root, config=config, resume_ckpt="latest", train_iters=3)
    name = next(iter(change))
    assert "this is not the run that the checkpoint is of" in said
    assert f"{name} of the model config is {change[name]}, it was" in said


def test_with_only_the_weights_it_is_another_run(place, finished, tmp_path):
    output = copy_output(finished, tmp_path / "out")
    config = place.write_model("other", base=5000.0)
    run = train_here(place, output.root, config=config, resume_ckpt="latest", only_load_model=1, train_iters=2)
    assert run.state(2)["model"]["base"] == 5000.0


def test_what_the_same_weights_compute_alike_with_may_change(place, finished, tmp_path):
    output = copy_output(finished, tmp_path / "out")
    config = place.write_model("dropping", dropout_p=0.1, max_length=256)
    run = train_here(place, output.root, config=config, resume_ckpt="latest", train_iters=3, log_iters=2)
    assert "dropout_p of the model config is 0.1, it was 0.0 in the checkpoint's run" in run.log
    assert "max_length of the model config is 256, it was 128" in run.log
    assert "log_iters is 2 (command line), it was 1 in the checkpoint's run" in run.log


def test_another_seed_is_refused(place, finished, tmp_path):
    output = copy_output(finished, tmp_path / "out")
    said = refused_here(place, output.root, seed=6, resume_ckpt="latest", load_dataloader_ckpt=0, train_iters=3)
    assert "seed is 6, it was 5" in said


@pytest.mark.parametrize("change", ["oversize_rule", "transforms"])
def test_another_way_to_read_a_dataset_is_refused(place, finished, tmp_path, change):
    program = tmp_path / "shout.py"
    program.write_text(
        "def transform(data, num_sample, r):\n    return {'input': '', 'output': data['output'].upper()}\n"
    )
    value = {"oversize_rule": "head", "transforms": str(program)}[change]
    entries = [
        {
            "path": str(place.root / "prose"),
            "task_name": "prose",
            "abs_weight": 0.7,
            "special_tokens": False,
            change: value,
        },
        {"path": str(place.root / "questions"), "task_name": "questions", "abs_weight": 0.3},
    ]
    mixture = place.write_mixture(f"with_{change}", entries)
    output = copy_output(finished, tmp_path / "out")
    said = refused_here(place, output.root, dataset_config=mixture, resume_ckpt="latest", train_iters=3)
    assert f"dataset 'prose': {change} was" in said


def test_older_checkpoints_that_do_not_say_how_they_read_go_on(place, finished, tmp_path):
    output = copy_output(finished, tmp_path / "out")
    path = output.checkpoints / "2/state.json"
    state = json.loads(path.read_text())
    for task in state["stream"]["tasks"]:
        del task["oversize_rule"], task["transforms"]
    path.write_text(json.dumps(state))
    output.take_as_written(2)
    assert train_here(place, output.root, resume_ckpt="latest", train_iters=3).latest() == 3


def test_a_field_that_older_checkpoints_do_not_know_had_its_default(place, finished, tmp_path):
    output = copy_output(finished, tmp_path / "out")
    path = output.checkpoints / "2/state.json"
    state = json.loads(path.read_text())
    for name in ("sliding_window", "sliding_layers", "norm", "position"):
        del state["model"][name]
    path.write_text(json.dumps(state))
    output.take_as_written(2)
    config = place.write_model("other", sliding_window=16, sliding_layers=[0])
    said = refused_here(place, output.root, config=config, resume_ckpt="latest", train_iters=3)
    assert (
        "sliding_window of the model config is 16, it was 0; sliding_layers of the model config is [0], it was []"
        in said
    )
    assert train_here(place, output.root, resume_ckpt="latest", train_iters=3).latest() == 3


def inputs(place, output, **changes):
    return open_inputs(read_settings(place.words(output, **changes)), APP)


def test_what_decides_is_the_same_for_the_same_run_and_tells_others_apart(place, tmp_path):
    mine = what_decides(inputs(place, tmp_path))
    assert json.loads(json.dumps(mine)) == json.loads(json.dumps(what_decides(inputs(place, tmp_path / "b"))))
    other = what_decides(inputs(place, tmp_path, lr=1, config=place.write_model("other", base=5000.0)))
    assert {name for name in mine if mine[name] != other[name]} == {"lr", "base of the model config"}


def test_ranks_that_run_the_same_are_content(place, tmp_path):
    check_ranks(inputs(place, tmp_path))


def test_a_rank_that_is_started_otherwise_is_named(place, tmp_path):
    """With another train_iters it would be waited for in vain."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        f"if os.environ['RANK'] == '1':\n    sys.argv += ['--train_iters', '7', '--lr', '0.5']\n"
        "from fm9g.commands.pretrain import main\n"
        "from fm9g.errors import run_command\n"
        "run_command(main)\n"
    )
    ended = finish(start_program(program, place.words(tmp_path / "out", n_gpus=2), tmp_path), timeout=100)
    assert ended.returncode == 1, ended.output
    assert "rank 1 is not started as rank 0 is: lr is 0.5 (rank 0: 0.003); train_iters is 7 (rank 0: 4)" in ended.output
    assert ended.output.splitlines()[-1].startswith("the run failed: rank")
