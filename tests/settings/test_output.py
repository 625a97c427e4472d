"""What a run writes: defaults, what is refused, and what each setting does."""

import pytest

from fm9g.checkpoint.settings import OutputSettings
from fm9g.checkpoint.writer import CheckpointWriter
from fm9g.settings import fields
from fm9g.training.settings import Settings
from tests.settings.helpers import defaults, iterations, refused, sees
from tests.support.places import SETTINGS
from tests.support.runs_here import refused_here, train_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {
    "model_unique": "7b",
    "output_dir": "",
    "exp_group": "",
    "save": True,
    "save_iters": 500,
    "keep_last": None,
    "keep_every": None,
    "save_total_limit": None,
    "save_failure": "retry",
    "save_format": "pt",
    "async_save": False,
}


def test_defaults():
    assert defaults(OutputSettings) == DEFAULTS


@sees("save_total_limit")
def test_old_checkpoints_are_deleted(run):
    assert run(save_iters=1, save_total_limit=2).steps() == [3, 4]


@sees("keep_last", "keep_every")
def test_every_so_many_checkpoints_are_kept_for_good(run):
    assert run(train_iters=7, save_iters=1, keep_last=2, keep_every=3).steps() == [3, 6, 7]


@sees("save_failure")
@pytest.mark.parametrize("choice", ["retry", "stop"])
def test_a_checkpoint_that_cannot_be_written(place, tmp_path, monkeypatch, choice):
    write = CheckpointWriter.write
    monkeypatch.setattr(
        CheckpointWriter, "write", lambda self, contents: "no room" if self.step == 1 else write(self, contents)
    )
    changes = {"train_iters": 2, "save_iters": 1, "save_failure": choice}
    if choice == "stop":
        assert "checkpoint 1 could not be saved: no room" in refused_here(place, tmp_path, **changes)
    else:
        assert train_here(place, tmp_path, **changes).steps() == [2]


@sees("async_save")
def test_checkpoints_are_written_in_the_background(run):
    ended = run(save_iters=2, async_save=1)
    assert ended.steps() == [2, 4]
    assert "of which training waited" in ended.log


@sees("save_format")
def test_the_form_of_the_weights(run):
    names = {path.name for path in (run(save_format="safetensors").checkpoints / "4").glob("fm9g_live_checkpoint-4*")}
    shard, index = (
        f"fm9g_live_checkpoint-4{end}" for end in ("-00001-of-00001.safetensors", ".safetensors.index.json")
    )
    assert names == {"fm9g_live_checkpoint-4.json", shard, index}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--save_format", "bin"], "save_format"),
        (["--save_iters", "0"], "save_iters must be at least 1"),
        (
            ["--model_unique", ""],
            "model_unique names the run's folders: it must be a name (without /, not logs), not ''",
        ),
        (["--model_unique", "../other"], "not '../other'"),
        (["--model_unique", "logs"], "not 'logs'"),
        (["--keep_last", "2", "--save_total_limit", "2"], "keep_last and save_total_limit say the same"),
        (["--exp_group", "../"], "exp_group begins the name of a folder below tensorboard/, so not '../'"),
    ],
)
def test_values_that_no_run_can_have_are_refused(words, says):
    assert says in refused(*words)


@sees("model_unique", "output_dir")
def test_model_unique_and_output_dir_say_where_a_run_writes(place, tmp_path):
    train_here(place, tmp_path / "here", model_unique="mine", train_iters=2)
    for written in ("checkpoints/mine/2", "checkpoints/mine/latest", "checkpoints/logs/mine/metrics.jsonl"):
        assert (tmp_path / "here" / written).exists()
    assert list((tmp_path / "here/tensorboard/mine").glob("events.*"))


@sees("save", "save_iters")
def test_save_and_save_iters(run):
    assert run(save_iters=3).steps() == [3, 4]
    without = run(save=False, save_iters=1)
    assert without.steps() == []
    assert not (without.checkpoints / "latest").exists()
    assert iterations(without) == [1, 2, 3, 4]


def test_the_settings_of_a_run_are_in_its_checkpoint(plain):
    saved = plain.state(4)["settings"]
    assert set(saved) == set(fields(Settings))
    assert {name: saved[name] for name in SETTINGS} == {**SETTINGS, "save_iters": 1}
