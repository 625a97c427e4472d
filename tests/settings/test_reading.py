"""Settings: where they come from, how users may write them, and which are refused."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from fm9g.environment import REPOSITORY
from fm9g.errors import UserError
from fm9g.settings import Group, Merged, fields, groups, help_text, meaning, parse_lines, parse_words, setting
from fm9g.training.optimizer_settings import OptimizerSettings
from fm9g.training.settings import COMMAND_LINE, TABLE, Settings, config_paths, read_settings
from tests.settings.helpers import read, refused


@pytest.fixture
def config(tmp_path):
    """A config path whose train config holds the given settings."""

    def write(content):
        (tmp_path / "train_configs").mkdir(exist_ok=True)
        (tmp_path / "train_configs/my.json").write_text(json.dumps(content))
        return str(tmp_path / "model_configs/my.json")

    return write


def test_every_setting_has_a_line_of_documentation_in_both_languages():
    for name, item in fields(Settings).items():
        for text in (meaning(item), item.metadata["chinese"]):
            assert text and "\n" not in text
        assert f"--{name} " in help_text(Settings)
    for group in groups(Settings):
        assert group.title and group.chinese_title
        assert f"\n{group.title}:\n" in help_text(Settings)


# where a value comes from, later over earlier


def test_later_sources_win(config):
    path = config({"batch_size": 3, "grad_accum": 3})
    table = "lr=0.5\nbatch_size=2\ngrad_accum=2\n"
    settings = read("--grad_accum", "4", table=table, config=path)
    assert (settings.lr, settings.batch_size, settings.grad_accum) == (0.5, 3, 4)
    assert settings.train_iters == 10000


def test_sources_tell_what_the_user_set_even_to_the_default():
    assert read("--lr", "1e-2", table="seed=1234").sources == {
        "config": "command line",
        "lr": "command line",
        "seed": "the args table of run_bmtrain.sh",
    }


def test_an_empty_value_in_the_table_is_unset():
    assert parse_lines(Settings, "lr=\nresume_ckpt= \nbatch_size=2\n", TABLE) == {"batch_size": 2}


def test_an_empty_value_in_the_table_says_nothing_whatever_its_key():
    """Tables of old scripts hold settings that are no more, and later ones, without a value."""
    assert read(table="lora_r=\ndiff=\nlr=0.5\n").lr == 0.5
    assert "unknown setting 'diff'" in refused(table="diff=1\n")


def test_a_setting_belongs_to_one_group():
    @dataclass(frozen=True)
    class Again(Group):
        lr: float = setting(1.0, "", "")

    @dataclass(frozen=True)
    class Both(Again, OptimizerSettings, Merged):
        pass

    with pytest.raises(AssertionError, match="two groups"):
        fields(Both)


def test_a_value_in_the_table_may_hold_an_equals_sign():
    assert parse_lines(Settings, "exp_group=lr=3/\n", TABLE) == {"exp_group": "lr=3/"}


@pytest.mark.parametrize("wrapped", ["pretrain", "finetune", None])
def test_a_train_config_may_be_wrapped(config, wrapped):
    content = {"lr": 0.25}
    assert read(config=config({wrapped: content} if wrapped else content)).lr == 0.25


def test_a_section_beside_other_keys_is_refused_with_the_rule(config):
    with pytest.raises(UserError, match="settings may stand under 'pretrain' only where it is the only key"):
        read(config=config({"pretrain": {"lr": 0.25}, "finetune": {"lr": 0.5}}))


def test_null_and_empty_in_a_train_config_are_unset(config):
    assert read(config=config({"lr": None, "eps": "", "seed": 7})).sources.keys() == {"config", "seed"}


def test_the_train_config_is_found_by_name_or_beside_the_model_config(tmp_path):
    assert [path.name for path in config_paths("tiny")] == ["tiny.json", "tiny.json"]
    assert [path.parent.name for path in config_paths("tiny")] == ["model_configs", "train_configs"]
    assert config_paths(str(tmp_path / "model_configs/a.json"))[1] == tmp_path / "train_configs/a.json"


def test_both_configs_are_the_current_folders_where_the_model_config_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("model_configs", "train_configs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train_configs/tiny.json").write_text('{"lr": 0.25}')
    assert config_paths("tiny") == (REPOSITORY / "model_configs/tiny.json", REPOSITORY / "train_configs/tiny.json")
    (tmp_path / "model_configs/tiny.json").write_text("{}")
    assert config_paths("tiny") == (Path("model_configs/tiny.json"), Path("train_configs/tiny.json"))
    assert read_settings(["--config", "tiny"]).lr == 0.25
    (tmp_path / "train_configs/tiny.json").unlink()
    assert read_settings(["--config", "tiny"]).sources.keys() == {"config"}


def test_the_config_may_be_named_in_the_table():
    assert read_settings([], "config=tiny").max_length == 256  # of train_configs/tiny.json


@pytest.mark.parametrize("content", ["[]", '"text"', "5"])
def test_a_train_config_that_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "train_configs").mkdir()
    (tmp_path / "train_configs/a.json").write_text(content)
    assert "expected an object of settings" in refused(config=str(tmp_path / "model_configs/a.json"))


# how values may be written


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-2", 0.01),
        ("lr", "3", 3.0),
        ("train_iters", "1e4", 10000),
        ("train_iters", "300.0", 300),
        ("drop_begin", "-1", -1),
        ("save", "True", True),
        ("save", "0", False),
        ("save", "false", False),
        ("save", " yes", True),
        ("only_load_model", "1", True),
        ("offload", "off", False),
        ("lr_scheduler", "Cosine", "cosine"),
        ("lr_scheduler", "WarmupStableDrop", "warmupstabledrop"),
        ("betas", "(0.9, 0.95)", (0.9, 0.95)),
        ("betas", "[0.8, 0.99]", (0.8, 0.99)),
        ("betas", "0.8,0.99", (0.8, 0.99)),
        ("betas", "0.8 0.99", (0.8, 0.99)),
        ("warmup_iters", "0.01", 0.01),
        ("model_unique", "0", "0"),
        ("resume_ckpt", "latest", "latest"),
        ("loss_scale", "65536", 65536.0),
    ],
)
def test_values_as_users_write_them(config, name, text, value):
    assert parse_words(Settings, [f"--{name}", text], COMMAND_LINE) == {name: value}
    assert parse_lines(Settings, f"{name}={text}", TABLE) == {name: value}
    assert getattr(read(config=config({name: text})), name) == value


@pytest.mark.parametrize(("written", "value"), [(True, True), (0, False), (1, True)])
def test_booleans_of_a_train_config(config, written, value):
    assert read(config=config({"use_checkpoint": written})).use_checkpoint is value


def test_values_of_a_train_config_keep_their_kind(config):
    settings = read(config=config({"betas": [0.5, 0.6], "lr": 1, "model_unique": 7, "eps": 1e-6}))
    assert (settings.betas, settings.lr, settings.model_unique, settings.eps) == ((0.5, 0.6), 1.0, "7", 1e-6)


@pytest.mark.parametrize("word", ["--batch-size", "--batch_size", "--batch-size=4"])
def test_dash_and_underscore_are_the_same(word):
    words = [word] if "=" in word else [word, "4"]
    assert parse_words(Settings, words, COMMAND_LINE) == {"batch_size": 4}


def test_booleans_work_bare_or_with_a_value():
    words = ["--save", "--local", "--dry_run", "0", "--only-run-dataloader", "--offload"]
    assert parse_words(Settings, words, COMMAND_LINE) == {
        "save": True,
        "local": True,
        "dry_run": False,
        "only_run_dataloader": True,
        "offload": True,
    }


def test_the_last_value_of_a_repeated_flag_wins():
    words = ["--save", "--lr", "1", "--lr=2", "--save", "False", "--lr", "3"]
    assert parse_words(Settings, words, COMMAND_LINE) == {"save": False, "lr": 3.0}


@pytest.mark.parametrize(
    ("written", "train_iters", "iterations"), [("20", 100, 20), ("0.1", 300, 30), ("0", 100, 0), ("1", 100, 1)]
)
def test_values_below_one_are_fractions_of_train_iters(written, train_iters, iterations):
    settings = read("--warmup_iters", written, "--drop_iters", written, "--train_iters", str(train_iters))
    assert settings.iterations("warmup_iters") == settings.iterations("drop_iters") == iterations


# what is refused, and how


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("batchsize", "batch_size"), ("warmup_iter", "warmup_iters"), ("resume-no-optimize", "resume_no_optimze")],
)
def test_an_unknown_setting_names_the_closest_known_one(config, wrong, meant):
    hint = f"(did you mean '{meant}'?)"
    assert hint in refused(f"--{wrong}", "1")
    assert hint in refused(table=f"{wrong}=1")
    assert hint in refused(config=config({wrong: 1}))


def test_an_unlike_setting_is_unknown_without_a_guess():
    assert refused("--xyzzy", "1") == "command line: unknown setting 'xyzzy'"


def test_given_is_no_setting():
    assert "unknown setting 'given'" in refused("--given", "x")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("lr", "fast", "lr must be a number, not 'fast'"),
        ("lr", "nan", "lr must be a number, not 'nan'"),
        ("train_iters", "1.5", "train_iters must be a whole number, not '1.5'"),
        ("batch_size", "two", "batch_size must be a whole number, not 'two'"),
        ("save", "maybe", "save must be true or false, not 'maybe'"),
        ("save", "2", "save must be true or false, not '2'"),
        ("betas", "0.9", "betas must be two numbers, as 0.9,0.95, not '0.9'"),
        ("betas", "(0.9, 0.95, 1)", "betas must be two numbers"),
        ("betas", "(0.9, x)", "betas must be two numbers"),
        ("betas", "[" * 5000, "betas must be two numbers"),
        ("lr", "1e300", "lr must be from -3.4e+38 to 3.4e+38, not '1e300'"),
        ("train_iters", "1e18", "train_iters must be from -4,294,967,295 to 4,294,967,295"),
        ("n_gpus", "²", "n_gpus must be a whole number, not '²'"),
    ],
)
def test_an_ill_typed_value_names_source_and_setting(config, name, text, says):
    assert refused(f"--{name}", text).startswith(f"command line: {says}")
    assert refused(table=f"{name}={text}").startswith(f"the args table of run_bmtrain.sh: {says}")
    path = config({name: text})
    assert refused(config=path).startswith(f"{config_paths(path)[1]}: {says}")


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", True), ("lr", [1]), ("lr", 10**400), ("betas", 0.9), ("model_unique", {}), ("save", [])],
)
def test_an_ill_typed_value_in_a_train_config(config, name, value):
    assert f"{name} must be" in refused(config=config({name: value}))


def test_a_value_without_a_flag_is_refused():
    assert refused("latest") == "command line: expected a --setting, found 'latest'"
    assert refused("--lr", "1", "2").endswith("found '2'")


@pytest.mark.parametrize("words", [["--lr"], ["--lr", "--save"], ["--resume_ckpt"]])
def test_a_flag_without_its_value_is_refused(words):
    assert refused(*words) == f"command line: {words[0]} needs a value"
