"""Where a run starts, where its settings come from, and what is said about it."""

import json

import pytest

from fm9g.environment import REPOSITORY
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.training.inputs import fit_length
from fm9g.training.settings import COMMAND_LINE, Settings, read_settings
from fm9g.training.start import Start, deal_rows, start_from
from tests.support.runs_here import refused_early, train_here


def model(positions):
    return ModelConfig(64, 32, 2, 2, 48, max_length=positions)


def read(*words, table="", config="no-such-config"):
    return read_settings(["--config", config, *words], table)


# the learning rate


@pytest.mark.parametrize("resume", [(), ("--resume_ckpt", "latest")])
def test_pretrained_weights_want_a_learning_rate(resume):
    with pytest.raises(UserError, match=r"lr is not set.*0\.01.*--lr 1e-5.*train_configs/no-such-config\.json"):
        read("--pretrained_model", "a.pt", *resume)


def test_a_learning_rate_from_anywhere_will_do(tmp_path):
    assert read("--pretrained_model", "a.pt", "--lr", "1e-2").lr == 1e-2
    assert read("--pretrained_model", "a.pt", table="lr=1e-5").lr == 1e-5
    (tmp_path / "train_configs").mkdir()
    (tmp_path / "train_configs/m.json").write_text(json.dumps({"lr": 3e-5}))
    assert read("--pretrained_model", "a.pt", config=str(tmp_path / "models/m.json")).lr == 3e-5
    assert read("--pretrained_model", "a.pt", "--only_run_dataloader").lr == Settings().lr  # it is not used


def test_a_warm_up_that_is_too_long_is_named_with_its_source():
    with pytest.raises(
        UserError, match=r"warmup_iters \(20\).*from: default.*from: command line.*--warmup_iters 0\.05"
    ):
        read("--train_iters", "10")


def test_the_train_configs_warm_up_fits_any_number_of_iterations():
    names = [path.stem for path in (REPOSITORY / "train_configs").glob("*.json")]
    assert {"4b", "7b", "70b", "quickstart", "small", "tiny"} <= set(names)
    for name in names:
        settings = read("--train_iters", "30", "--pretrained_model", "x.pt", config=name)
        assert settings.iterations("warmup_iters") <= 30, name
    assert [read(config=name).iterations("warmup_iters") for name in ("4b", "7b", "70b")] == [200, 200, 1000]


# the length of a row


def test_max_length_follows_the_model_where_nobody_gave_it():
    fitted = fit_length(read(), model(2048))
    assert fitted.max_length == 2048
    assert "the model has 2,048 positions" in fitted.source("max_length")
    assert fit_length(read(), model(131072)).max_length == Settings().max_length == 4096
    assert "131,072" in fit_length(read(), model(131072)).source("max_length")


def test_a_train_configs_max_length_gives_way_to_a_shorter_model(tmp_path):
    (tmp_path / "train_configs").mkdir()
    (tmp_path / "train_configs/m.json").write_text('{"max_length": 4096}')
    settings = read(config=str(tmp_path / "models/m.json"))
    assert fit_length(settings, model(2048)).max_length == 2048
    assert "train_configs/m.json 4,096" in fit_length(settings, model(2048)).source("max_length")
    assert fit_length(settings, model(8192)) == settings


def test_what_this_run_was_told_is_never_changed():
    assert fit_length(read("--max_length", "100"), model(2048)).max_length == 100
    for settings in (read("--max_length", "4096"), read(table="max_length=4096")):
        with pytest.raises(UserError, match="max_length 4096 is beyond the 2048 positions"):
            fit_length(settings, model(2048))


# where a run starts


def test_pretrained_weights_are_for_a_run_with_nothing_to_resume(tmp_path):
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"")
    settings = Settings(pretrained_model=str(weights), resume_ckpt="latest", sources={"lr": COMMAND_LINE})
    assert start_from(settings, tmp_path, None) == Start(weights=weights)
    assert start_from(settings, tmp_path, 40).resumed == tmp_path / "40"
    weights.unlink()
    assert start_from(settings, tmp_path, 40).resumed == tmp_path / "40"  # they are needed no more
    with pytest.raises(UserError, match=r"w\.pt: no such file"):
        start_from(settings, tmp_path, None)


def test_what_a_resume_takes_along(tmp_path):
    folder, weights = tmp_path / "40", tmp_path / "40/fm9g_live_checkpoint-40.pt"

    def start(**settings):
        return start_from(Settings(**settings), tmp_path, 40)

    assert start() == Start(weights, optimizer=folder, resumed=folder, data=True)
    assert start(load_grad=False) == Start(weights, resumed=folder, data=True)
    assert start(load_dataloader_ckpt=False) == Start(weights, optimizer=folder, resumed=folder)
    assert start(only_load_model=True) == Start(weights)
    assert start(only_load_model=True, load_grad=True) == Start(weights, optimizer=folder)


def test_an_optimizer_state_needs_a_checkpoint_to_come_from(tmp_path):
    with pytest.raises(UserError, match="load_grad=1 needs a checkpoint: give resume_ckpt or pretrained_model"):
        start_from(Settings(load_grad=True), tmp_path, None)
    (tmp_path / "w.pt").write_bytes(b"")
    settings = Settings(load_grad=True, pretrained_model=str(tmp_path / "w.pt"))
    assert start_from(settings, tmp_path, None) == Start(tmp_path / "w.pt", optimizer=tmp_path)


def test_rows_are_dealt_to_other_ranks_as_they_were():
    settings = Settings(batch_size=2, grad_accum=4)
    assert deal_rows(settings, 16, groups=2).grad_accum == 4
    assert deal_rows(settings, 16, groups=8).grad_accum == 1
    with pytest.raises(UserError, match=r"16 rows per step, which 3 rank\(s\) with batch_size 2 cannot divide"):
        deal_rows(settings, 16, groups=3)
    together = Settings(batch_size=2, tp_size=2)
    with pytest.raises(UserError, match=r"3 rows .* 4 rank\(s\) of tp_size 2 .* a number of ranks among 2, 6, or"):
        deal_rows(together, 3, groups=2)


def test_a_step_and_pretrained_weights_contradict_each_other():
    with pytest.raises(UserError, match=r"give only one of them \(beside resume_ckpt \"latest\""):
        read("--pretrained_model", "a.pt", "--resume_ckpt", "40", "--lr", "1e-5")


def test_a_start_is_told_in_words(tmp_path):
    assert str(Start()) == "step 0 with new weights"
    assert str(Start(weights=tmp_path / "w.pt")) == f"step 0 with the weights of {tmp_path}/w.pt"
    assert str(Start(weights=tmp_path / "w.pt", resumed=tmp_path / "5")) == str(tmp_path / "5")


@pytest.mark.usefixtures("single_rank")
def test_weights_of_another_shape_are_refused_before_anything_starts(place, tmp_path):
    run = train_here(place, tmp_path / "run")
    weights = run.checkpoints / "4/fm9g_live_checkpoint-4.pt"
    config = json.loads(place.config.read_text())
    wider = place.root / "model_configs/wider.json"
    wider.write_text(json.dumps(config | {"dim_ff": config["dim_ff"] + 8}))
    message = refused_early(place, tmp_path / "other", pretrained_model=weights, config=wider)
    assert "does not fit the model" in message and "w_0" in message
