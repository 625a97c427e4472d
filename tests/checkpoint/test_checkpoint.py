"""Checkpoints: what they hold, that they come back bit for bit on any number of ranks, and what is refused."""

import json
import os
import shutil

import pytest
import torch

from fm9g.model.config import ModelConfig
from tests.support.outputs import Output
from tests.support.ranks import run_ranks
from tests.support.runs_here import APP, refused_here, train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def assert_same_optimizer(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name]["step"] == expected[name]["step"]
        assert_same(tensors(found[name]), tensors(expected[name]))


def tensors(state):
    return {key: value for key, value in state.items() if key != "step"}


# what a checkpoint holds


def test_the_files_of_a_checkpoint(trained):
    assert trained.steps() == [1, 2, 3]
    assert trained.latest() == 3
    assert sorted(os.listdir(trained.checkpoints / "3")) == [
        "data-00000.pt",
        "fm9g_live_checkpoint-3.json",
        "fm9g_live_checkpoint-3.pt",
        "manifest.json",
        "optimizer-00000.pt",
        "random-00000.pt",
        "state.json",
    ]


def test_weights_have_our_names_and_shapes(trained, place):
    shapes = {name: tuple(weight.shape) for name, weight in trained.weights(3).items()}
    layers = {}
    for i in range(2):
        attention, ffn = f"encoder.layers.{i}.self_att.", f"encoder.layers.{i}.ffn."
        layers |= {
            f"{attention}layernorm_before_attention.weight": (32,),
            f"{attention}self_attention.project_q.weight": (32, 32),
            f"{attention}self_attention.project_k.weight": (16, 32),
            f"{attention}self_attention.project_v.weight": (16, 32),
            f"{attention}self_attention.attention_out.weight": (32, 32),
            f"{ffn}layernorm_before_ffn.weight": (32,),
            f"{ffn}ffn.w_in.w_0.weight": (48, 32),
            f"{ffn}ffn.w_in.w_1.weight": (48, 32),
            f"{ffn}ffn.w_out.weight": (32, 48),
        }
    ends = {"input_embedding.weight": (320, 32), "encoder.output_layernorm.weight": (32,), "lm_head.weight": (320, 32)}
    assert shapes == layers | ends


def test_a_tied_head_is_not_stored(place, tmp_path):
    config = place.write_model("tied", tie_lm_head=True)
    assert "lm_head.weight" not in train_here(place, tmp_path, config=config).weights(4)


def test_every_weight_is_stored_once_and_alone(trained):
    weights = trained.weights(3)
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    assert size <= (trained.checkpoints / "3/fm9g_live_checkpoint-3.pt").stat().st_size < 1.25 * size
    assert all(w.untyped_storage().nbytes() == w.numel() * w.element_size() for w in weights.values())


def test_the_model_config_lies_beside_the_weights(trained, place):
    config = ModelConfig.from_json(trained.checkpoints / "3/fm9g_live_checkpoint-3.json")
    assert config == ModelConfig.from_json(place.config)


def test_the_state_says_what_the_run_was(trained, place):
    state = trained.state(3)
    assert state["progress"]["step"] == 3
    assert state["progress"]["tokens"] == trained.metrics()[-1]["tokens"]
    assert state["settings"]["lr"] == 3e-3
    assert state["model"]["dim_model"] == 32
    assert state["ranks"] == 1
    assert len(state["progress"]["stream_sha256"]) == 64


def test_documents_are_counted(trained):
    progress = trained.progress(3)
    assert set(progress["task_documents"]) == set(progress["task_tokens"]) == {"prose", "questions"}
    assert sum(progress["task_tokens"].values()) == progress["tokens"]


# round trips


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_weights_optimizer_and_random_states_come_back(place, tmp_path, dtype):
    config = place.write_model(f"model_{dtype}", dtype=dtype, dropout_p=0.1)
    first = train_here(place, tmp_path, config=config, train_iters=2)
    random_state = torch.load(first.checkpoints / "2/random-00000.pt", weights_only=True)["torch"]
    with training_here(place, tmp_path, config=config, resume_ckpt="latest") as run:
        assert torch.equal(torch.get_rng_state(), random_state)
        assert run.stream.progress.step == 2
        run.checkpoints.save(run.stream.progress.step, run.contents)
    assert (first.checkpoints / "2.superseded-1").is_dir()
    aside = Output(tmp_path)
    weights = torch.load(first.checkpoints / "2.superseded-1/fm9g_live_checkpoint-2.pt", weights_only=True)
    assert_same(aside.weights(2), weights)
    shutil.rmtree(first.checkpoints / "2")
    again = aside.optimizer("2.superseded-1")
    assert ("_param_fp32" in next(iter(again.values()))) == (dtype == "bf16")


def test_a_checkpoint_that_is_written_again_is_kept_aside(place, own):
    for number in (1, 2):
        run = train_here(place, own.root, resume_ckpt="1", train_iters=3, save_iters=1, lr=number)
        aside = sorted(path.name for path in run.checkpoints.glob("3.superseded-*"))
        assert aside == [f"3.superseded-{i}" for i in range(1, number + 1)]
    assert own.latest() == 3


def test_what_a_killed_save_left_is_cleared(place, own):
    (own.checkpoints / ".4.partial").mkdir()
    (own.checkpoints / ".4.partial/junk").write_text("")
    train_here(place, own.root, resume_ckpt="latest", train_iters=4)
    assert own.latest() == 4
    assert not (own.checkpoints / "4/junk").exists()
    assert not (own.checkpoints / ".4.partial").exists()


SAVE_AGAIN = """
import json, sys
from pathlib import Path
from fm9g import runtime
from fm9g.training.settings import read_settings
from fm9g.training.inputs import open_inputs
from fm9g.checkpoint.folder import RunFolder
from fm9g.training.run import open_loop

app, runs = sys.argv[1:]
runtime.initialize(seed=1)
for words, target in json.loads(runs):
    run = open_loop(open_inputs(read_settings(words), Path(app)))
    run.checkpoints.folder = RunFolder(Path(target), "u", "")
    run.checkpoints.folder.create()
    runtime.barrier()
    run.checkpoints.save(run.stream.progress.step, run.contents)
"""


def test_any_number_of_ranks_loads_the_same_optimizer_state(place, tmp_path):
    """What one rank saved is loaded and saved again by two, and what they saved by one: nothing differs."""
    runs = []
    for dtype in ("float32", "bf16"):
        changes = {"config": place.write_model(f"ranks_{dtype}", dtype=dtype), "train_iters": 3}
        train_here(place, tmp_path / dtype, **changes)
        words = place.words(tmp_path / dtype, **changes, resume_ckpt="3")
        runs.append([words, str(tmp_path / f"{dtype}_two")])
    result = run_ranks(SAVE_AGAIN, 2, tmp_path, [APP, json.dumps(runs)])
    assert result.returncode == 0, result.output
    for dtype in ("float32", "bf16"):
        one, two = Output(tmp_path / dtype), Output(tmp_path / f"{dtype}_two")
        assert len(list((two.checkpoints / "3").glob("optimizer-*.pt"))) == 2
        assert_same(two.weights(3), one.weights(3))
        assert_same_optimizer(two.optimizer(3), one.optimizer(3))
        assert two.state(3)["ranks"] == 2
        changes = {"config": place.config.with_name(f"ranks_{dtype}.json"), "grad_accum": 2, "resume_ckpt": "3"}
        with training_here(place, two.root, **changes) as run:
            run.checkpoints.save(run.stream.progress.step, run.contents)
        assert_same_optimizer(two.optimizer(3), one.optimizer(3))
        assert two.state(3)["ranks"] == 1


# what is refused


def test_an_optimizer_file_of_one_rank_that_is_missing_is_noticed(place, own):
    path = own.checkpoints / "3/optimizer-00000.pt"
    state = torch.load(path, weights_only=True)
    name = "lm_head.weight"
    state[name] = {**state[name], **{key: state[name][key][:100].clone() for key in ("exp_avg", "exp_avg_sq")}}
    torch.save(state, path)
    own.take_as_written(3)
    message = refused_here(place, own.root, resume_ckpt="3", train_iters=4)
    assert f"the optimizer files lack {320 * 32 - 100} elements of exp_avg of {name}" in message


def test_a_state_of_another_step_is_refused(place, own):
    shutil.copy(own.checkpoints / "2/state.json", own.checkpoints / "3/state.json")
    own.take_as_written(3)
    assert "/3/state.json is of step 2" in refused_here(place, own.root, resume_ckpt="3", train_iters=4)


@pytest.mark.parametrize(
    ("left", "says"), [(["lm_head.weight"], "has nothing of"), ([], "holds an optimizer file that is none")]
)
def test_an_optimizer_file_without_a_weight_is_refused(place, own, left, says):
    path = own.checkpoints / "3/optimizer-00000.pt"
    state = torch.load(path, weights_only=True)
    torch.save({name: state[name] for name in left} or [1], path)
    own.take_as_written(3)
    assert says in refused_here(place, own.root, resume_ckpt="3", train_iters=4)
    train_here(place, own.root, resume_ckpt="3", train_iters=4, load_grad=0)


def test_the_number_of_optimizer_files_is_checked_when_it_is_given(place, own):
    message = refused_here(place, own.root, resume_ckpt="3", train_iters=4, grad_ckpt_num=8)
    assert "holds 1 optimizer file(s), grad_ckpt_num says 8" in message
    train_here(place, own.root, resume_ckpt="3", train_iters=4, grad_ckpt_num=1)


def test_a_resume_looks_at_weights_and_optimizer_too(place, own):
    path = own.checkpoints / "3/fm9g_live_checkpoint-3.pt"
    weights = own.weights(3)
    torch.save({**weights, "lm_head.weight": weights["lm_head.weight"] / 0}, path)
    own.take_as_written(3)
    assert "lm_head.weight has " in refused_here(place, own.root, resume_ckpt="3", train_iters=4)
    torch.save(weights, path)
    state = torch.load(own.checkpoints / "3/optimizer-00000.pt", weights_only=True)
    state["lm_head.weight"]["exp_avg_sq"][7] = float("nan")
    torch.save(state, own.checkpoints / "3/optimizer-00000.pt")
    own.take_as_written(3)
    message = refused_here(place, own.root, resume_ckpt="3", train_iters=4)
    assert "the optimizer files have NaN in exp_avg_sq of lm_head.weight; load_grad=0" in message
