"""Weights in shards: save_format says how they are written, and either form comes back bit for bit."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from fm9g.checkpoint import shared_file, weights_files
from tests.checkpoint.test_checkpoint import SAVE_AGAIN, assert_same, assert_same_optimizer
from tests.checkpoint.test_whole import full_disk
from tests.support.outputs import Output
from tests.support.ranks import run_ranks
from tests.support.runs_here import APP, refused_early, refused_here, train_here

pytestmark = pytest.mark.usefixtures("single_rank", "small_shards")
SHARD_BYTES = 60_000  # less than half of the model
STEM = "fm9g_live_checkpoint-3"
INDEX = f"{STEM}.safetensors.index.json"
SHARDED = {"save_format": "safetensors"}


@pytest.fixture(scope="module")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_files, "SHARD_BYTES", SHARD_BYTES)
        yield


@pytest.fixture(scope="module")
def sharded(place, tmp_path_factory, single_rank, small_shards):
    """The run `trained` in the other form: read it, do not change it."""
    return train_here(place, tmp_path_factory.mktemp("sharded"), train_iters=3, save_iters=1, **SHARDED)


@pytest.fixture
def own_sharded(sharded, tmp_path):
    """A copy of it, to go on from."""
    shutil.copytree(sharded.root, tmp_path / "own")
    return Output(tmp_path / "own")


def shards(output, step=3):
    return sorted((output.checkpoints / str(step)).glob("*.safetensors"))


def assert_same_run(found, expected, step):
    assert found.learned() == expected.learned()
    assert_same(found.weights(step), expected.weights(step))
    assert_same_optimizer(found.optimizer(step), expected.optimizer(step))


def test_shards_and_their_index_stand_in_place_of_the_pt(trained, sharded):
    files = shards(sharded)
    assert [path.name for path in files] == [f"{STEM}-{n:05d}-of-{len(files):05d}.safetensors" for n in (1, 2, 3)]
    there = {*os.listdir(trained.checkpoints / "3")} - {f"{STEM}.pt"} | {INDEX} | {path.name for path in files}
    assert {*os.listdir(sharded.checkpoints / "3")} == there
    assert set(json.loads((sharded.checkpoints / "3/manifest.json").read_text())["files"]) == there - {"manifest.json"}


def test_safetensors_reads_the_same_tensors_out_of_them(trained, sharded):
    held = {path.name: load_file(path) for path in shards(sharded)}
    assert_same(sharded.weights(3), trained.weights(3))
    index = json.loads((sharded.checkpoints / "3" / INDEX).read_text())
    assert index["weight_map"] == {name: file for file, tensors in held.items() for name in tensors}
    sizes = [sum(tensor.nbytes for tensor in tensors.values()) for tensors in held.values()]
    assert index["metadata"] == {"total_size": sum(sizes)}
    assert max(sizes) <= SHARD_BYTES
    assert sharded.learned() == trained.learned()


def test_a_small_model_has_one_shard(place, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_files, "SHARD_BYTES", 5 * 10**9)
    run = train_here(place, tmp_path, train_iters=3, **SHARDED)
    assert [path.name for path in shards(run)] == [f"{STEM}-00001-of-00001.safetensors"]


def test_the_form_may_change_at_each_resume(place, trained, tmp_path):
    settings = {"train_iters": 3, "save_iters": 1}
    train_here(place, tmp_path, **settings, **SHARDED)
    run = train_here(place, tmp_path, **settings, resume_ckpt=1)
    assert f"loaded weights from {run.checkpoints}/1/fm9g_live_checkpoint-1.safetensors.index.json" in run.log
    assert "save_format is pt (default), it was safetensors in the checkpoint's run" in run.log
    assert not shards(run) and not shards(run, 2)
    assert_same_run(run, trained, 3)
    run = train_here(place, tmp_path, **settings, **SHARDED, resume_ckpt=2)
    assert f"loaded weights from {run.checkpoints}/2/fm9g_live_checkpoint-2.pt" in run.log
    assert len(shards(run)) == 3
    assert_same_run(run, trained, 3)


def test_weights_in_shards_begin_a_run(place, trained, sharded, tmp_path):
    settings = {"train_iters": 2, "lr": 1e-3}
    paths = (trained.checkpoints / f"3/{STEM}.pt", sharded.checkpoints / "3" / INDEX)
    from_pt, from_shards = (
        train_here(place, tmp_path / str(number), **settings, pretrained_model=path)
        for number, path in enumerate(paths)
    )
    assert_same_run(from_shards, from_pt, 2)


TRAIN = """
import json, random, sys
from pathlib import Path

import numpy, torch

from fm9g import runtime
from fm9g.checkpoint import weights_files
from fm9g.training.inputs import open_inputs
from fm9g.training.run import go
from fm9g.training.settings import read_settings

app, shard_bytes, runs = sys.argv[1:]
weights_files.SHARD_BYTES = int(shard_bytes)
runtime.initialize(seed=1)
for words in json.loads(runs):
    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(1)
    go(open_inputs(read_settings(words), Path(app)))
"""


def test_runs_of_two_ranks_go_on_bit_for_bit_in_either_form_and_from_one_to_the_other(place, tmp_path):
    def words(name, form, **changes):
        settings = {"n_gpus": 2, "grad_accum": 1, "save_iters": 1, "save_format": form}
        return place.words(tmp_path / name, **settings, **changes)

    runs = [words("pt", "pt"), words("shards", "safetensors"), words("shards", "safetensors", resume_ckpt=2)]
    runs += [words("mixed", "pt"), words("mixed", "safetensors", resume_ckpt=1), words("mixed", "pt", resume_ckpt=3)]
    result = run_ranks(TRAIN, 2, tmp_path, [APP, SHARD_BYTES, json.dumps(runs)], timeout=300)
    assert result.returncode == 0, result.output
    expected = Output(tmp_path / "pt")
    assert [len(shards(Output(tmp_path / "mixed"), step)) for step in (1, 2, 3, 4)] == [0, 3, 3, 0]
    assert len(shards(Output(tmp_path / "shards"), 4)) == 3
    for name in ("shards", "mixed"):
        assert_same_run(Output(tmp_path / name), expected, 4)


def test_files_are_the_same_whatever_the_number_of_ranks(place, sharded, tmp_path):
    words = place.words(sharded.root, train_iters=3, **SHARDED, resume_ckpt=3)
    program = f"import fm9g.checkpoint.weights_files as files\nfiles.SHARD_BYTES = {SHARD_BYTES}\n{SAVE_AGAIN}"
    result = run_ranks(program, 2, tmp_path, [APP, json.dumps([[words, str(tmp_path / "two")]])])
    assert result.returncode == 0, result.output
    two = Output(tmp_path / "two")
    assert two.state(3)["ranks"] == 2
    for path in [*shards(sharded), sharded.checkpoints / "3" / INDEX]:
        assert (two.checkpoints / "3" / path.name).read_bytes() == path.read_bytes()


def test_they_are_written_in_the_background_too(place, sharded, tmp_path):
    run = train_here(place, tmp_path, train_iters=3, save_iters=1, async_save=1, **SHARDED)
    for path in shards(sharded):
        assert (run.checkpoints / "3" / path.name).read_bytes() == path.read_bytes()


# damage


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size - 4)


def of_another_step(path):
    """Of the same size and form, as it is where folders of two checkpoints were mixed up."""
    shutil.copy(path.parent.with_name("2") / path.name.replace("-3-", "-2-").replace("-3.", "-2."), path)


@pytest.mark.parametrize("name", [f"{STEM}-00002-of-00003.safetensors", INDEX])
@pytest.mark.parametrize(
    ("harm", "says", "early"),
    [
        (flip, "is damaged: its checksum is not that of what was written", False),
        (of_another_step, "is damaged: its checksum is not that of what was written", False),
        (cut, "bytes, ", True),
        (lambda path: path.unlink(), "is missing", True),
    ],
    ids=["flipped", "of another step", "cut", "missing"],
)
def test_a_shard_that_is_not_what_was_written_is_named_and_latest_takes_the_one_before(
    place, own_sharded, name, harm, says, early
):
    path = own_sharded.checkpoints / "3" / name
    harm(path)
    asked = {"train_iters": 4, "resume_ckpt": 3}
    for refused in (refused_here, refused_early) if early else (refused_here,):
        message = refused(place, own_sharded.root, **asked)
        assert str(path) in message and says in message
    run = train_here(place, own_sharded.root, **{**asked, "resume_ckpt": "latest"}, **SHARDED)
    assert f"warning: checkpoint 3 is not whole: {path}" in run.log
    assert f"resuming {run.checkpoints}/2 at step" in run.log
    assert run.progress(4)["step"] == 4


def test_a_full_disk_costs_that_checkpoint_alone(place, tmp_path, monkeypatch):
    full_disk(monkeypatch, shared_file, 2)
    run = train_here(place, tmp_path, train_iters=3, save_iters=1, **SHARDED)
    assert "warning: checkpoint 2 could not be saved: rank 0: [Errno 28] No space left on device" in run.log
    assert run.steps() == [1, 3]
    assert not list(run.checkpoints.glob(".*partial"))


# both forms in one folder


def test_of_two_forms_that_one_is_taken_which_the_run_has_written(place, own_sharded, trained):
    """What somebody has put beside it is not looked at."""
    (own_sharded.checkpoints / f"3/{STEM}.pt").write_text("a copy that was cut")
    run = train_here(place, own_sharded.root, resume_ckpt=3, train_iters=4)
    assert f"loaded weights from {run.checkpoints}/3/{INDEX}" in run.log
    (own_sharded.checkpoints / f"3/{STEM}.pt").unlink()
    shutil.copy(trained.checkpoints / f"3/{STEM}.pt", own_sharded.checkpoints / "3")
    (own_sharded.checkpoints / "3/manifest.json").unlink()
    state = own_sharded.state(3)
    del state["version"]  # as if of a version before manifests
    (own_sharded.checkpoints / "3/state.json").write_text(json.dumps(state))
    for refused in (refused_here, refused_early):
        message = refused(place, own_sharded.root, resume_ckpt=3, train_iters=4)
        assert f"holds both {STEM}.pt and {INDEX}, and nothing says which to take: remove one" in message
    (own_sharded.checkpoints / f"3/{STEM}.pt").unlink()
    train_here(place, own_sharded.root, resume_ckpt=3, train_iters=4)
    (own_sharded.checkpoints / "3" / INDEX).unlink()
    message = refused_here(place, own_sharded.root, resume_ckpt=3, train_iters=4)
    assert f"{own_sharded.checkpoints}/3/{STEM}.pt: no such file" in message


# weights of somebody else


@pytest.fixture
def foreign(sharded, tmp_path):
    """The shards alone, to change and to begin a run from."""
    for path in [*shards(sharded), sharded.checkpoints / "3" / INDEX]:
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / INDEX


def test_weights_that_do_not_fit_are_listed_as_those_of_a_pt_are(place, foreign, tmp_path):
    from safetensors.torch import save_file

    path = next(path for path in tmp_path.glob("*.safetensors") if "lm_head.weight" in load_file(path))
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for value, says in (
        (tensors["lm_head.weight"][:300].clone(), "lm_head.weight: the file has [300, 32], the model [320, 32]"),
        (tensors["lm_head.weight"].double(), "lm_head.weight: dtype F64 (convert it to float32 first)"),
        (torch.full((320, 32), float("nan")), "lm_head.weight has NaN: no weights to train from"),
    ):
        save_file(tensors | {"lm_head.weight": value}, path)
        message = refused_here(place, tmp_path / "o", pretrained_model=foreign)
        assert message.startswith(str(foreign)) and says in message
