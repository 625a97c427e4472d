"""LoRA: defaults, what is refused, and what each setting does."""

import json

import pytest

from fm9g.lora.layers import USUAL, adapter_parameters
from fm9g.lora.settings import LoraSettings
from fm9g.model.config import ModelConfig
from fm9g.training.settings import read_settings
from tests.settings.helpers import defaults, refused, sees
from tests.support.runs_here import train_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {
    "lora": False,
    "lora_config": "",
    "lora_layer": None,
    "lora_target_modules": None,
    "lora_r": 16,
    "lora_alpha": 32.0,
    "lora_dropout": 0.0,
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "pretrained_lora": "",
}


def test_defaults():
    assert defaults(LoraSettings) == DEFAULTS
    assert LoraSettings().layers_in(ModelConfig(8, 8, 2, 1, 8)) == USUAL


@pytest.fixture(scope="module")
def base(place, tmp_path_factory, single_rank):
    """Weights to put adapters beside."""
    run = train_here(place, tmp_path_factory.mktemp("base"), train_iters=2)
    return run.checkpoints / "2/fm9g_live_checkpoint-2.pt"


@pytest.fixture
def adapted(place, base, tmp_path):
    """A run with adapters."""

    def run(name="run", **changes):
        options = {"lora": 1, "pretrained_model": base, "train_iters": 3, "warmup_iters": 0, "lora_r": 4, **changes}
        return train_here(place, tmp_path / name, **options)

    return run


def layers_of(run):
    return {name.partition(".lora.")[0].rpartition(".")[2] for name in run.weights(3)}


@sees("lora")
def test_adapters_are_trained_alone(adapted, place):
    table = adapter_parameters(ModelConfig.from_json(place.config), USUAL, 4, False)
    assert set(adapted().weights(3)) == {parameter.name for parameter in table}
    assert "give its weights as pretrained_model" in refused("--lora", "1")


@sees("lora_layer", "lora_target_modules")
@pytest.mark.parametrize("name", ["lora_layer", "lora_target_modules"])
def test_layers_are_named_by_our_names_or_theirs(adapted, name):
    given = "['project_q', 'w_out']" if name == "lora_layer" else "['q_proj', 'down_proj']"
    assert layers_of(adapted(**{name: given})) == {"project_q", "w_out"}
    both = ("--lora_layer", "['project_q']", "--lora_target_modules", "['q_proj']")
    assert "lora_layer and lora_target_modules name the same" in refused(*both)


@sees("lora_config")
def test_a_file_of_its_own_as_other_guides_have_it(place, adapted, tmp_path):
    file = tmp_path / "lora_config.json"
    given = {"lora_r": 2, "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_modules": ["q_proj", "v_proj"]}
    file.write_text(json.dumps(given))
    run = adapted(lora_config=file, lora_r=3)
    assert layers_of(run) == {"project_q", "project_v"}
    assert {value.shape[0] for name, value in run.weights(3).items() if name.endswith("lora_A")} == {3}
    settings = read_settings(["--config", "7b_lora", "--lora_config", str(file), "--pretrained_model", "x"])
    assert (settings.named_layers, settings.lora_alpha) == (("project_q", "project_v"), 16)
    assert settings.source("lora_target_modules") == str(file)
    file.write_text('{"lora_rank": 2}')
    words = ("--lora_config", str(file), "--lora", "1", "--pretrained_model", "x")
    assert f"lora_config: {file}: unknown setting 'lora_rank' (did you mean 'lora_r'?)" in refused(*words)
    file.write_text("[]")
    assert f"{file}: expected an object" in refused(*words)
    file.unlink()
    assert str(file) in refused(*words)


def test_a_later_source_names_layers_in_its_own_way():
    words = ["--config", "7b_lora", "--pretrained_model", "x", "--lora_target_modules", "['o_proj']"]
    assert read_settings(words).named_layers == ("attention_out",)


@sees("lora_r")
def test_the_rank(adapted):
    weights = adapted(lora_r=3).weights(3)
    assert {value.shape[0] for name, value in weights.items() if name.endswith("lora_A")} == {3}


@sees("lora_alpha", "use_rslora", "use_dora", "lora_dropout")
def test_what_adapters_do(adapted):
    plain = adapted().losses()
    for name, changes in (
        ("alpha", {"lora_alpha": 64}),
        ("rslora", {"use_rslora": 1}),
        ("dora", {"use_dora": 1}),
        ("dropout", {"lora_dropout": 0.5}),
    ):
        losses = adapted(name, **changes).losses()
        assert losses[0] == plain[0] and losses[1:] != plain[1:], name  # at first they add nothing
    same = adapted("same", lora_alpha=64, use_rslora=1, lora_r=4).losses()  # 64 / sqrt(4) is 128 / 4
    assert same == adapted("other", lora_alpha=128, lora_r=4).losses()


@sees("modules_to_save")
def test_what_is_trained_whole(adapted):
    run = adapted(modules_to_save="['lm_head']")
    assert [name for name in run.weights(3) if ".lora." not in name] == ["lm_head.weight"]


@sees("pretrained_lora")
def test_a_run_starts_from_adapters(adapted):
    path = adapted("first", lr=1e-2).checkpoints / "3/fm9g_live_checkpoint-3.pt"
    assert adapted("second", lr=1e-2, pretrained_lora=path).losses()[0] != adapted("third", lr=1e-2).losses()[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--lora_dropout", "1"), "lora_dropout is a share below 1, not 1"),
        (("--lora_alpha", "0"), "lora_alpha must be a number above 0, not 0"),
        (("--lora_r", "0"), "lora_r"),
        (("--lora_target_modules", "['c_fc']"), "lora_target_modules: unknown 'c_fc'"),
        (("--modules_to_save", "['norm']"), "modules_to_save: unknown 'norm'"),
    ],
)
def test_what_means_nothing_is_refused(words, says):
    assert says in refused("--lora", "1", "--pretrained_model", "x.pt", "--lr", "1", *words)


def test_a_run_with_adapters_takes_their_train_config_for_any_model_of_the_name(tmp_path):
    """As for a model that was converted, whose shape lies beside its weights."""
    for folder in ("9g_models", "train_configs"):
        (tmp_path / folder).mkdir()
    model = tmp_path / "9g_models/7b.json"
    for name, lr in (("7b", 1e-4), ("7b_lora", 2e-4)):
        (tmp_path / f"train_configs/{name}.json").write_text(json.dumps({"lr": lr}))
    words = ["--config", str(model), "--pretrained_model", "x.pt"]
    assert read_settings(words).lr == 1e-4
    assert read_settings(words, "lora=1").lr == read_settings([*words, "--lora", "1"]).lr == 2e-4
    (tmp_path / "train_configs/7b_lora.json").unlink()
    assert read_settings(words, "lora=1").lr == 1e-4
