"""Runs that train adapters: what they write, how they go on, and what does not fit them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from fm9g.convert.adapters import read_adapters, with_adapters
from fm9g.lora.layers import adapter_parameters
from fm9g.model.config import ModelConfig
from fm9g.runtime import bmt
from fm9g.tensors.fingerprint import fingerprint
from fm9g.tensors.forms import INDEX
from fm9g.tensors.lazy import same_bits
from fm9g.tensors.readers import read_pt, read_weights
from fm9g.training.inputs import open_inputs
from fm9g.training.run import open_loop
from fm9g.training.settings import read_settings
from tests.support.families import FAMILIES
from tests.support.families import config_of as config_of_family
from tests.support.outputs import Output
from tests.support.places import Place
from tests.support.runs_here import APP, refused_early, refused_here, train_here, training_here
from tests.support.shards import in_shards

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture(scope="module")
def base(place, tmp_path_factory, single_rank):
    """Weights to put adapters beside."""
    run = train_here(place, tmp_path_factory.mktemp("base"), train_iters=3)
    return run.checkpoints / "3/fm9g_live_checkpoint-3.pt"


@pytest.fixture(scope="module")
def options(base):
    """Settings of a run with adapters."""
    return {"lora": 1, "pretrained_model": base, "lora_r": 4, "save_iters": 2, "lr": 1e-2}


def config_of(place: Place) -> ModelConfig:
    return ModelConfig.from_json(place.config)


def test_a_checkpoint_holds_adapters_alone(place, options, tmp_path):
    run = train_here(place, tmp_path, **options)
    table = adapter_parameters(
        config_of(place), ["project_q", "project_k", "project_v", "w_0", "w_1", "w_out"], 4, False
    )
    assert {name: tuple(value.shape) for name, value in run.weights(4).items()} == {p.name: p.shape for p in table}
    assert set(run.optimizer(4)) == {p.name for p in table}
    trained = sum(p.numel for p in table)
    assert f"{trained:,} more in adapters of 12 layers" in run.log
    described = run.state(4)["adapters"]
    assert (described["r"], described["alpha"], described["dora"]) == (4, 32.0, False)


@pytest.mark.parametrize("changes", [{}, {"use_dora": 1}, {"use_rslora": 1, "lora_dropout": 0.1, "use_checkpoint": 1}])
def test_a_resumed_run_goes_on_bit_for_bit(place, options, tmp_path, changes):
    changes = {**options, **changes, "train_iters": 6}
    whole = train_here(place, tmp_path / "whole", **changes)
    train_here(place, tmp_path / "half", **changes | {"train_iters": 2})
    rest = train_here(place, tmp_path / "half", **changes, resume_ckpt="latest")
    assert rest.learned() == whole.learned()
    assert all(torch.equal(value, whole.weights(6)[name]) for name, value in rest.weights(6).items())
    train_here(place, tmp_path / "half", **changes | {"train_iters": 7}, resume_ckpt=6)


SAMPLE = ("BloomForCausalLM", "Gemma2ForCausalLM", "MixtralForCausalLM")  # of the mathematics that there is


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.soak) for name in FAMILIES]
)
def test_every_family_is_resumed_bit_for_bit(place, tmp_path, architecture):
    """Finetuned with adapters, from weights that it has learned."""
    fields = {**config_of_family(architecture).to_dict(), "vocab_size": 320}
    config = place.write_model(architecture, **fields)
    base = train_here(place, tmp_path / "base", config=config, train_iters=2)
    weights = base.checkpoints / "2/fm9g_live_checkpoint-2.pt"
    settings = {"config": config, "lora": 1, "pretrained_model": weights, "lr": 1e-2, "save_iters": 2, "train_iters": 4}
    whole = train_here(place, tmp_path / "whole", **settings)
    train_here(place, tmp_path / "half", **settings | {"train_iters": 2})
    rest = train_here(place, tmp_path / "half", **settings, resume_ckpt="latest")
    assert rest.learned() == whole.learned()
    assert all(torch.equal(value, whole.weights(4)[name]) for name, value in rest.weights(4).items())


def test_adapters_in_safetensors_are_those_of_a_pt(place, options, base, tmp_path):
    """Resumed, a start for another run, told by their state.json, and merged into a model in shards."""
    steps = {**options, "train_iters": 4}
    expected = train_here(place, tmp_path / "pt", **steps)
    train_here(place, tmp_path / "st", **{**steps, "train_iters": 2}, save_format="safetensors")
    run = train_here(place, tmp_path / "st", **steps, save_format="safetensors", resume_ckpt="latest")
    assert run.learned() == expected.learned()
    assert all(torch.equal(value, expected.weights(4)[name]) for name, value in run.weights(4).items())
    paths = [output.checkpoints / f"4/fm9g_live_checkpoint-4{end}" for output, end in ((expected, ".pt"), (run, INDEX))]
    started = [
        train_here(place, tmp_path / f"from{number}", **options, pretrained_lora=path)
        for number, path in enumerate(paths)
    ]
    assert started[0].learned() == started[1].learned()
    assert "other weights" not in started[1].log and "nothing says" not in started[1].log
    sharded = in_shards(base, tmp_path)
    assert fingerprint(sharded) == run.state(4)["adapters"]["base"]
    merged = [
        with_adapters(read_weights(weights), read_adapters(path, None), weights, None)
        for weights, path in zip((base, sharded), paths, strict=True)
    ]
    assert all(same_bits(merged[1][name], tensor) for name, tensor in merged[0].items())
    message = refused_here(place, tmp_path / "r", **{**options, "lora_r": 8}, pretrained_lora=paths[1])
    assert "their r is 4, not 8" in message


def test_the_base_is_what_it_was_after_50_steps(place, options, tmp_path):
    inputs = open_inputs(read_settings(place.words(tmp_path, **{**options, "train_iters": 50, "save_iters": 50})), APP)
    loop = open_loop(inputs)
    before = {name: value.clone() for name, value in loop.learner.model.state_dict().items()}
    loop.run()
    loop.close()
    after = loop.learner.model.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == set(loop.learner.saved_names) == {name for name in before if ".lora." in name}
    losses = [line["loss"] for line in Output(tmp_path, "u").metrics()]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_another_run_may_start_from_adapters(place, options, tmp_path):
    first = train_here(place, tmp_path / "first", **options)
    path = first.checkpoints / "4/fm9g_live_checkpoint-4.pt"
    second = train_here(place, tmp_path / "second", **options, pretrained_lora=path)
    assert f"loaded weights from {path}" in second.log and second.losses()[0] < first.losses()[0]


def test_what_is_saved_whole_is_in_the_checkpoint(place, options, tmp_path):
    run = train_here(place, tmp_path, **options, modules_to_save="['embed_tokens', 'lm_head']")
    assert {name for name in run.weights(4) if ".lora." not in name} == {"input_embedding.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora_r": 8}, "their r is 4, not 8"),
        ({"lora_alpha": 8}, "their alpha is 32.0, not 8.0"),
        ({"lora_layer": "['project_q']"}, "their layers are"),
        ({"use_dora": 1}, "their dora is False, not True"),
        ({"use_rslora": 1}, "their rslora is False, not True"),
    ],
)
def test_adapters_of_another_kind_are_refused(place, options, tmp_path, changes, says):
    train_here(place, tmp_path, **options, train_iters=2)
    for refused in (refused_here, refused_early):
        message = refused(place, tmp_path, **{**options, **changes}, resume_ckpt="latest")
        assert "adapters that do not fit this run" in message and says in message


def test_adapters_for_other_weights_are_refused(place, options, base, tmp_path):
    run = train_here(place, tmp_path / "a", **options, train_iters=2)
    other = tmp_path / "other.pt"
    torch.save({name: value + 1 for name, value in torch.load(base, weights_only=True).items()}, other)
    changed = {**options, "pretrained_model": other}
    for refused in (refused_here, refused_early):
        message = refused(place, tmp_path / "a", **changed, resume_ckpt="latest")
        assert f"adapters for other weights than {other}" in message
    path = run.checkpoints / "2/fm9g_live_checkpoint-2.pt"
    assert "other weights" in refused_here(place, tmp_path / "b", **changed, pretrained_lora=path)
    shutil.copy(path, tmp_path / "moved.pt")  # away from its state.json, nobody knows, and that is said
    run = train_here(place, tmp_path / "c", **changed, pretrained_lora=tmp_path / "moved.pt")
    assert f"nothing says what the adapters in {tmp_path / 'moved.pt'} are: taken for those of this run" in run.log
    note = {"lora_r": 4, "lora_alpha": 16, "use_rslora": False, "use_dora": False}
    (tmp_path / "moved.lora.json").write_text(json.dumps(note))
    message = refused_here(place, tmp_path / "d", **changed, pretrained_lora=tmp_path / "moved.pt")
    assert "their alpha is 16.0, not 32.0" in message
    (tmp_path / "moved.lora.json").write_text("{}")
    message = refused_here(place, tmp_path / "d", **changed, pretrained_lora=tmp_path / "moved.pt")
    assert "moved.lora.json: does not say what the adapters in" in message


def test_a_run_without_lora_says_what_adapters_are(place, options, base, tmp_path):
    train_here(place, tmp_path / "a", **options, train_iters=2)
    for refused in (refused_here, refused_early):
        message = refused(place, tmp_path / "a", resume_ckpt="latest")
        assert "it holds adapters, for runs with lora=1" in message
        message = refused(place, tmp_path / "b", **options, pretrained_lora=base, strict_state_dict=0)
        assert "it holds no adapters" in message


def test_adapters_need_a_model(place, tmp_path):
    assert "give its weights as pretrained_model" in refused_here(place, tmp_path, lora=1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora_layer": "['project_x']"}, "lora_layer: 'project_x' is no linear layer of a block"),
        ({"lora_layer": "['all', 'project_x']"}, "lora_layer: 'project_x' is no linear layer of a block"),
        ({"lora_layer": "[]"}, "lora_layer names no layer"),
        ({"pretrained_lora": "a.pt", "resume_ckpt": 5}, "pretrained_lora starts a new run and resume_ckpt 5 continues"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_opened(place, options, tmp_path, changes, says):
    assert says in refused_here(place, tmp_path, **options, **changes)
    assert not list(tmp_path.iterdir())


def test_a_train_config_for_adapters_is_for_the_model_of_its_name(place, options, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    (folder / "model_configs").mkdir(parents=True)
    (folder / "train_configs").mkdir()
    shutil.copy(place.config, folder / "model_configs/mine.json")
    (folder / "train_configs/mine_lora.json").write_text(json.dumps({"finetune": {"lora": True, "lora_r": 2}}))
    monkeypatch.chdir(folder)
    named = {**options, "config": "mine_lora"}
    del named["lora"], named["lora_r"]
    assert train_here(place, tmp_path / "out", **named).state(4)["adapters"]["r"] == 2


def test_dora_of_a_model_in_half_precision(place, tmp_path):
    """Adapters that have learned nothing change no bit of the weights, and a run goes on bit for bit."""
    config = place.write_model("half", dtype="bf16")
    base = (
        train_here(place, tmp_path / "base", config=config, train_iters=2).checkpoints / "2/fm9g_live_checkpoint-2.pt"
    )
    options = {"config": config, "lora": 1, "use_dora": 1, "pretrained_model": base, "save_iters": 1, "lr": 1e-2}
    frozen = train_here(place, tmp_path / "frozen", **options | {"lr": 0, "weight_decay": 0}, train_iters=2)
    path = frozen.checkpoints / "1/fm9g_live_checkpoint-1.pt"
    weights = read_pt(base)
    merged = with_adapters(weights, read_adapters(path, None), base, None)
    assert all(same_bits(merged[name], weights[name]) for name in weights)
    whole = train_here(place, tmp_path / "whole", **options, train_iters=4)
    train_here(place, tmp_path / "half", **options, train_iters=4, stop_when_end=1)
    rest = train_here(place, tmp_path / "half", **options, train_iters=4, resume_ckpt=2)
    assert rest.learned() == whole.learned()
    assert all(torch.equal(value, whole.weights(4)[name]) for name, value in rest.weights(4).items())


def test_a_save_gathers_no_weights(place, options, tmp_path, monkeypatch):
    """Of a base of 70 billion weights, gathering all for a few megabytes would take minutes."""
    with training_here(place, tmp_path, **options) as loop:
        gathered, gather = [], bmt.nccl.allGather
        monkeypatch.setattr(bmt.nccl, "allGather", lambda src, *to: (gathered.append(src), gather(src, *to)))
        loop.checkpoints.save(0, loop.contents)
        monkeypatch.undo()
        names = set(loop.learner.saved_names)
    assert {src.dtype for src in gathered} <= {torch.int64, torch.uint8}  # what ranks tell each other
    assert set(read_pt(tmp_path / "checkpoints/u/0/fm9g_live_checkpoint-0.pt")) == names


def test_of_a_model_of_experts_attention_is_adapted_and_it_is_said(place, tmp_path):
    """Trained, saved, gone on with, and merged; experts stay as they are."""
    model = place.write_model("experts", num_experts=3, experts_per_token=2, dim_expert=16, router_loss=0.01)
    base = train_here(place, tmp_path / "base", config=model, train_iters=1, warmup_iters=0)
    weights = base.checkpoints / "1/fm9g_live_checkpoint-1.pt"
    given = {"config": model, "lora": 1, "pretrained_model": weights, "lora_r": 4, "save_iters": 2, "use_checkpoint": 1}
    whole = train_here(place, tmp_path / "whole", **given)
    assert "lora_layer: in a model of experts project_q, project_k, project_v alone, unless it is set" in whole.log
    assert {name.partition(".lora.")[0].rpartition("_")[2] for name in whole.weights(4)} == {"q", "k", "v"}
    train_here(place, tmp_path / "half", **given | {"train_iters": 2})
    rest = train_here(place, tmp_path / "half", **given, resume_ckpt="latest")
    assert rest.learned() == whole.learned()
    adapters, told = whole.checkpoints / "4/fm9g_live_checkpoint-4.pt", tmp_path / "told.json"
    told.write_text(json.dumps({"lora": True, "lora_r": 4}))
    for saved in (read_adapters(adapters, None), read_adapters(adapters, told)):
        merged = with_adapters(read_weights(weights), saved, weights, None)
        changed = {name for name, tensor in read_weights(weights).items() if not same_bits(merged[name], tensor)}
        assert {name.rpartition(".")[0].rpartition("_")[2] for name in changed} == {"q", "k", "v"}
    message = refused_early(place, tmp_path / "r", **given, lora_layer="['w_out']")
    assert "'w_out' is ffn.ffn.experts.w_out here, and a router and its experts get no adapters" in message
