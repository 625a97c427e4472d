"""Runs on groups of ranks that share rows: the same run as on one rank."""

import pytest
import torch

from fm9g.training.dry_run import report
from fm9g.training.inputs import open_inputs
from fm9g.training.settings import read_settings
from tests.support.apps import run_app, start_program
from tests.support.outputs import Output
from tests.support.ranks import finish
from tests.support.runs_here import APP, refused_early, train_here

# ranks and tp_size of each part of a run that goes on elsewhere
PARTS = [(4, 2), (1, 1), (2, 2)]
SOAKED = [(4, 1), (4, 2), (2, 2), (2, 1), (1, 1), (2, 2), (4, 1), (4, 4)]
EVERY, ROWS = 2, 4
# a learning rate that does not look at train_iters
FLAT = {"lr_scheduler": "warmupstableexp", "drop_begin": 1000, "drop_iters": 10, "warmup_iters": 1}


@pytest.fixture(scope="module")
def options(place):
    """With evaluation, samples and summaries."""
    return {
        "config": place.write_model("four heads", num_heads=4, num_kv_heads=2),
        **FLAT,
        "validation_split": 0.05,
        "eval_interval": EVERY,
        "eval_iters": 2,
        "inspect_iters": EVERY,
        "sample_prompts": '["the tiny model"]',
    }


def losses(output):
    """What a run learned and was evaluated as."""
    found = []
    for line in output.metrics():
        found += [line["loss"], line["grad_norm"], *line["task_loss"].values()]
        found += [line["eval_loss"], line["eval_seen"]["accuracy"]] if line["eval_loss"] is not None else []
    return found


def samples(log):
    """What the model said at each evaluation."""
    return [line for line in log.splitlines() if "the tiny model =>" in line]


def counted(output):
    """What a run has read, and says of the model's size; no rank more than once."""
    return [(line["tokens"], line["task_tokens"], line["task_documents"]) for line in output.metrics()]


@pytest.mark.parametrize("parts", [PARTS, pytest.param(SOAKED, marks=pytest.mark.soak)], ids=["some", "all"])
def test_a_run_that_goes_on_in_other_groups_is_the_same_run(place, options, single_rank, tmp_path, parts):
    whole = train_here(place, tmp_path / "whole", **options, grad_accum=ROWS, train_iters=EVERY * len(parts))
    moved, said = Output(tmp_path / "moved"), ""
    for number, (ranks, tp_size) in enumerate(parts, 1):
        dealt = {"n_gpus": ranks, "tp_size": tp_size, "grad_accum": ROWS * tp_size // ranks}
        words = place.words(moved.root, **options, **dealt, train_iters=EVERY * number, resume_ckpt="latest")
        result = run_app(words, tmp_path)
        assert result.returncode == 0, result.output
        said += result.output
    assert f"tp_size is {parts[-1][1]} (command line), it was {parts[-2][1]} in the checkpoint's run" in said
    assert sum(line["eval_loss"] is not None for line in moved.metrics()) == len(parts)
    assert losses(moved) == pytest.approx(losses(whole), rel=1e-5)
    assert counted(moved) == counted(whole)
    last = EVERY * len(parts)
    assert moved.progress(last) == whole.progress(last)  # stream_sha256 among it
    summaries = {tag: found for tag, found in whole.events().items() if tag.startswith("Parameters/")}
    assert any(tag.endswith("project_k.weight/grad_std") for tag in summaries)
    for tag, found in summaries.items():
        for (step, value), (_, other) in zip(found, moved.events()[tag], strict=True):
            assert other == pytest.approx(value, rel=1e-3, abs=1e-6), (tag, step)
    assert samples(said)[-1] == samples(whole.log)[-1]


@pytest.mark.parametrize("dora", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_adapters_of_a_group_are_those_of_one_rank(place, options, single_rank, tmp_path, dora):
    base = train_here(place, tmp_path / "base", config=options["config"], train_iters=2)
    lora = {**FLAT, "lora": 1, "lora_layer": "all", "lora_r": 4, "use_dora": dora, "config": options["config"]}
    lora["pretrained_model"] = base.checkpoints / "2/fm9g_live_checkpoint-2.pt"
    alone = train_here(place, tmp_path / "alone", **lora, train_iters=6)
    group = Output(tmp_path / "group")
    for last in (3, 6):  # stopped and resumed
        dealt = {"n_gpus": 2, "tp_size": 2, "async_save": 1, "train_iters": last, "resume_ckpt": "latest"}
        result = run_app(place.words(group.root, **lora, **dealt), tmp_path)
        assert result.returncode == 0, result.output
    assert losses(group) == pytest.approx(losses(alone), rel=1e-5)
    weights = group.weights(6)
    assert weights.keys() == alone.weights(6).keys()
    for name, expected in alone.weights(6).items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=1e-4)


# pretrain.py whose rank 1 finds some records damaged
DAMAGED = """
import os, runpy
from fm9g import runtime
from fm9g.data.index.dataset import IndexedDataset

assert runtime.backend
read = IndexedDataset.read

def read_damaged(self, i):
    if i % 7 == 3 and os.environ.get("RANK") == "1":
        raise self._damaged(i, 0, "its bytes have changed")
    return read(self, i)

IndexedDataset.read = read_damaged
runpy.run_path(os.environ["FM9G_TEST_PRETRAIN"], run_name="__main__")
"""


@pytest.mark.parametrize("data_alone", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_ranks_that_read_other_rows_than_they_share_end_the_run(place, tmp_path, data_alone):
    program = tmp_path / "damaged.py"
    program.write_text(DAMAGED)
    words = place.words(tmp_path, n_gpus=2, tp_size=2, train_iters=20, only_run_dataloader=data_alone)
    pretrain = {"FM9G_TEST_PRETRAIN": str(APP / "pretrain.py")}
    result = finish(start_program(program, words, tmp_path, pretrain), 120)
    assert result.returncode == 1
    assert "rank 1 has read other rows than rank 0, with which it shares them (tp_size 2)" in result.output
    assert "; a record of rank 1 is damaged: " in result.output


def test_a_run_of_the_data_alone_reads_each_row_once(place, single_rank, tmp_path):
    data = {"only_run_dataloader": 1, "train_iters": 6}
    alone = train_here(place, tmp_path / "alone", **data, grad_accum=2)
    result = run_app(place.words(tmp_path / "group", **data, n_gpus=4, tp_size=2, grad_accum=1), tmp_path)
    assert result.returncode == 0, result.output
    assert result.output.splitlines()[-1] == alone.log.splitlines()[-1]
    assert result.output.splitlines()[-1].startswith("stream_sha256 ")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_gpus": 4, "tp_size": 4}, "tp_size 4 does not divide num_heads 2 of the model config"),
        ({"n_gpus": 3, "tp_size": 3}, "tp_size 3 does not divide num_heads 2 of the model config"),
        ({"n_gpus": 4, "tp_size": 4, "num_heads": 8, "dim_ff": 46}, "tp_size 4 does not divide dim_ff 46"),
        (
            {"n_gpus": 4, "tp_size": 4, "num_heads": 12, "num_kv_heads": 6},
            "tp_size 4 neither divides num_kv_heads 6 of the model config nor is a multiple of it",
        ),
    ],
)
def test_groups_that_cannot_share_a_model_are_refused_early(place, tmp_path, changes, says):
    model = {name: changes.pop(name) for name in list(changes) if name.startswith(("num_", "dim_"))}
    config = place.write_model("other", **model)
    assert says in refused_early(place, tmp_path, config=config, **changes)


def test_a_group_over_two_nodes_is_cautioned(place, tmp_path, monkeypatch):
    monkeypatch.setenv("NNODES", "2")
    words = place.words(tmp_path, n_gpus=1, tp_size=2)
    assert "the groups of tp_size 2 reach over nodes of 1 rank(s)" in report(open_inputs(read_settings(words), APP))
