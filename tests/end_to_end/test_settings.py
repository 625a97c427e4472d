"""Every setting has an effect that a test sees. The last test compares those seen with those there are."""

import math
import os
import re
import shutil
import sys

import pytest
import torch

from fm9g.commands import train
from fm9g.errors import UserError
from fm9g.runtime import bmt
from fm9g.training import stream
from fm9g.training.arguments import FIELDS, Settings
from fm9g.training.inputs import find, mixture_path
from tests.support.runs import (
    SETTINGS,
    Output,
    command_here,
    copy_output,
    index,
    load_program,
    train_here,
    training_here,
)

pytestmark = pytest.mark.usefixtures("single_rank")
SEEN = set()


def sees(*names):
    """Says which settings' effects a test sees."""
    SEEN.update(names)
    return lambda test: test


@pytest.fixture(scope="module")
def plain(place, tmp_path_factory, single_rank):
    """Four steps with the settings of SETTINGS and a checkpoint of each step: read it, do not change it."""
    return train_here(place, tmp_path_factory.mktemp("plain"), save_iters=1)


@pytest.fixture
def own(plain, tmp_path):
    """A copy of it, to go on from."""
    return copy_output(plain, tmp_path / "own")


@pytest.fixture
def run(place, tmp_path):
    """A run with changed settings, in a folder of its own."""

    def start(**changes):
        return train_here(place, tmp_path / str(len(list(tmp_path.iterdir()))), **changes)

    return start


def rates(output):
    return [line["lr"] for line in output.metrics()]


def iterations(output):
    return [line["iteration"] for line in output.metrics()]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def norm(state, moment):
    return math.sqrt(sum(float(item[moment].double().square().sum()) for item in state.values()))


FROZEN = {"lr": 0, "weight_decay": 0}


# where a run starts


@sees("pretrained_model", "load_grad")
def test_pretrained_model_starts_at_step_0_and_load_grad_takes_the_optimizer_along(plain, run):
    weights = plain.checkpoints / "3/fm9g_live_checkpoint-3.pt"
    frozen = run(pretrained_model=weights, **FROZEN, train_iters=2)
    assert iterations(frozen) == [1, 2]
    assert same(frozen.weights(2), plain.weights(3))
    steps = [run(pretrained_model=weights, load_grad=load, train_iters=2).optimizer(2) for load in (0, 1)]
    assert [state["lm_head.weight"]["step"] for state in steps] == [{2}, {5}]


@sees("resume_ckpt")
def test_resume_ckpt_continues_a_step(place, plain, own):
    train_here(place, own.root, resume_ckpt="2", save_iters=1)
    assert own.learned() == plain.learned()


@sees("only_load_model")
def test_only_load_model_starts_anew_with_the_weights(place, plain, own):
    again = train_here(place, own.root, resume_ckpt="3", only_load_model=1, train_iters=2, **FROZEN)
    assert iterations(again) == [1, 2]
    assert same(again.weights(2), plain.weights(3))
    assert again.optimizer(2)["lm_head.weight"]["step"] == {2}


@sees("load_grad")
def test_load_grad_0_starts_the_optimizer_anew(place, own):
    again = train_here(place, own.root, resume_ckpt="3", load_grad=0)
    assert again.optimizer(4)["lm_head.weight"]["step"] == {1}


@sees("grad_ckpt_num")
def test_grad_ckpt_num_is_checked(place, own):
    with pytest.raises(UserError, match=r"holds 1 optimizer file\(s\), grad_ckpt_num says 2"):
        train_here(place, own.root, resume_ckpt="3", grad_ckpt_num=2)


@sees("load_dataloader_ckpt")
def test_load_dataloader_ckpt_0_starts_the_data_anew(place, own):
    def documents_taken(output):
        states = torch.load(output.checkpoints / "4/data-00000.pt", weights_only=True)["states"]
        return int(states[:, :2].sum())

    continued = documents_taken(own)
    train_here(place, own.root, resume_ckpt="3", load_dataloader_ckpt=0)
    assert 0 < documents_taken(own) < continued / 2


@sees("parallel_load_datastate")
def test_parallel_load_datastate_is_the_number_of_threads(place, own, monkeypatch):
    workers = []

    class Pool(stream.ThreadPoolExecutor):
        def __init__(self, max_workers):
            workers.append(max_workers)
            super().__init__(max_workers)

    monkeypatch.setattr(stream, "ThreadPoolExecutor", Pool)
    train_here(place, own.root, resume_ckpt="3", parallel_load_datastate=3)
    assert workers == [3]


@sees("resume_no_optimze")
def test_resume_no_optimze_ramps_the_rate_after_a_resume_only(place, plain, own, run):
    assert rates(run(resume_no_optimze=2)) == rates(plain)
    train_here(place, own.root, resume_ckpt="1", resume_no_optimze=2)
    assert rates(own) == pytest.approx([rate * ramp for rate, ramp in zip(rates(plain), (1, 0, 0.5, 1), strict=True)])


@sees("strict_state_dict")
def test_strict_state_dict_0_lists_what_it_leaves_out(plain, tmp_path, run):
    weights = plain.weights(3)
    weights["other"] = weights.pop("lm_head.weight")
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(UserError, match="missing lm_head"):
        run(pretrained_model=tmp_path / "w.pt")
    log = run(pretrained_model=tmp_path / "w.pt", strict_state_dict=0).log
    assert "skipped: missing lm_head.weight [320, 32]" in log
    assert "skipped: unexpected other [320, 32]" in log


@sees("accept_changed_data")
def test_accept_changed_data_resumes_on_other_data(place, tmp_path):
    data = {"dataset_config": tmp_path / "m.json"}
    data["dataset_config"].write_text('[{"path": "mine", "abs_weight": 1, "task_name": "mine"}]')
    for text in ("old", "new"):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        index(tmp_path / "mine", [{"input": "", "output": f"{text} {i}"} for i in range(40)])
        if text == "old":
            train_here(place, tmp_path / "out", **data)
    with pytest.raises(UserError, match=r"'mine'.* is not the file that the checkpoint was made with"):
        train_here(place, tmp_path / "out", **data, resume_ckpt="latest", train_iters=5)
    train_here(place, tmp_path / "out", **data, resume_ckpt="latest", train_iters=5, accept_changed_data=1)


# what is trained


@sees("config")
def test_config_names_the_model_and_its_train_config(place, run):
    config = place.write_model("wide", dim_ff=96)
    (place.root / "train_configs").mkdir(exist_ok=True)
    (place.root / "train_configs/wide.json").write_text('{"pretrain": {"weight_decay": 0.77}}')
    found = run(config=config, train_iters=2).state(2)
    assert (found["model"]["dim_ff"], found["settings"]["weight_decay"]) == (96, 0.77)


@sees("tokenizer_path")
def test_tokenizer_path_chooses_the_tokenizer(place, plain, run, tmp_path):
    from fm9g.data.tokens.training import save_tokenizer, train_tokenizer

    (tmp_path / "t").mkdir()
    save_tokenizer(train_tokenizer([place.root / "questions.jsonl"], 260), tmp_path / "t")
    other = run(tokenizer_path=tmp_path / "t")
    assert other.state(4)["stream"]["tokenizer"] != plain.state(4)["stream"]["tokenizer"]


@sees("dataset_config")
def test_dataset_config_is_a_path_or_a_name(place, run):
    mixture = place.write_mixture("one", [{"path": "prose", "abs_weight": 1, "task_name": "alone"}])
    assert set(run(dataset_config=mixture).metrics()[0]["task_tokens"]) == {"alone"}
    assert mixture_path(Settings(), place.root).parts[-2:] == ("dataset_config", "data_test.json")


@sees("model_unique", "output_dir")
def test_model_unique_and_output_dir_say_where_a_run_writes(place, tmp_path):
    train_here(place, tmp_path / "here", model_unique="mine", train_iters=2)
    for written in ("checkpoints/mine/2", "checkpoints/mine/latest", "checkpoints/logs/mine/metrics.jsonl"):
        assert (tmp_path / "here" / written).exists()
    assert list((tmp_path / "here/tensorboard/mine").glob("events.*"))


@sees("eps")
def test_eps_overrides_the_model_config(plain, run):
    assert plain.state(4)["model"]["eps"] == 1e-5
    other = run(eps=0.5)
    assert other.state(4)["model"]["eps"] == 0.5
    assert other.losses()[1:] != plain.losses()[1:]


# how it is run


def launched(monkeypatch, place, tmp_path, **changes):
    """What launch.py gives to torchrun."""
    commands = []
    monkeypatch.setattr(sys, "argv", ["launch.py", "program.py", *place.words(tmp_path, **changes)])
    monkeypatch.setattr(train, "launch", commands.append)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    load_program("launch").main()
    return commands[0]


@sees("n_gpus")
def test_n_gpus_is_the_number_of_processes(monkeypatch, place, tmp_path):
    command = launched(monkeypatch, place, tmp_path, n_gpus=3)
    assert "--nproc_per_node=3" in command
    assert "--standalone" in command


@sees("flash")
def test_flash_chooses_the_kernel(plain, run):
    reference = run(flash="none")
    assert "plain attention" in reference.log
    assert "plain attention" not in plain.log
    assert reference.losses() == pytest.approx(plain.losses(), rel=1e-5)


@sees("max_length", "batch_size", "grad_accum")
def test_a_step_is_grad_accum_times_batch_size_rows_of_max_length(run):
    found = run(max_length=32, batch_size=3, grad_accum=2, train_iters=2)
    assert "6 rows of 32 tokens per step" in found.log
    assert 5 * 32 < found.metrics()[0]["tokens"] <= 6 * 32
    stream = found.state(2)["stream"]
    assert (stream["rows_per_step"], stream["row_length"]) == (6, 32)


@sees("local")
def test_local_takes_paths_as_they_are(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    assert find(Settings(local=False), tmp_path, "tokenizer") == tmp_path / "tokenizer"
    assert str(find(Settings(local=True), tmp_path, "tokenizer")) == "tokenizer"


@sees("use_checkpoint")
def test_use_checkpoint_recomputes_and_changes_nothing(place, plain, run, tmp_path):
    assert run(use_checkpoint=1).losses() == pytest.approx(plain.losses(), rel=1e-6)
    with training_here(place, tmp_path / "used", use_checkpoint=1) as training:
        assert all(block._use_checkpoint for block in blocks(training))
    with training_here(place, tmp_path / "unused") as training:
        assert not any(block._use_checkpoint for block in blocks(training))


def blocks(training):
    return [module for module in training.model.modules() if isinstance(module, bmt.Block)]


@sees("offload")
def test_offload_gives_the_same_numbers(place, plain, run, tmp_path):
    assert run(offload=1).losses() == pytest.approx(plain.losses(), rel=1e-6)
    with training_here(place, tmp_path / "o", offload=True) as training:
        assert isinstance(training.optimizer, bmt.optim.AdamOffloadOptimizer)


@sees("ignore_cuda_oom")
def test_ignore_cuda_oom_is_accepted_and_changes_nothing(plain, run):
    assert run(ignore_cuda_oom=0).losses() == plain.losses()


@sees("tp_size", "async_save", "dataloader", "lora_layer", "lora_r", "lora_alpha", "lora_dropout")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("tp_size", 2), ("async_save", True), ("dataloader", "other"), ("lora_layer", "['project_q']")),
        *(("lora_r", 16), ("lora_alpha", 32), ("lora_dropout", 0.1)),
    ],
)
def test_what_this_version_does_not_have_is_refused(place, tmp_path, name, value):
    result = command_here(place.words(tmp_path, **{name: value}))
    assert result.returncode == 1
    assert name in result.output
    assert not list(tmp_path.iterdir())


@sees("seed")
def test_the_seed_changes_weights_and_data(plain, run):
    assert run(seed=SETTINGS["seed"]).losses() == plain.losses()
    other = run(seed=77, train_iters=2, save_iters=1)
    assert other.losses()[0] != plain.losses()[0]
    assert other.progress(1)["stream_sha256"] != plain.progress(1)["stream_sha256"]


# the data


@sees("dataloader_num_workers", "dataloader_num_threads", "dataloader_prefetch", "dataloader_prefetch_factor")
def test_the_loader_is_made_as_asked_for(place, plain, run, monkeypatch):
    made = {}

    class NotedPrefetcher(stream.Prefetcher):
        def __init__(self, threads, depth):
            made.update(threads=threads, depth=depth)
            super().__init__(threads, depth)

    class Loader(stream.Loader):
        def __init__(self, steps, workers, prefetch):
            made.update(workers=workers, prefetch=prefetch)
            super().__init__(steps, workers, prefetch)

    monkeypatch.setattr(stream, "Prefetcher", NotedPrefetcher)
    monkeypatch.setattr(stream, "Loader", Loader)
    options = {"workers": 2, "threads": 3, "prefetch": 4, "prefetch_factor": 5}
    settings = {f"dataloader_{'' if 'prefetch' in name else 'num_'}{name}": value for name, value in options.items()}
    assert run(**settings).losses() == plain.losses()
    assert made == {"workers": 2, "threads": 3, "depth": 4, "prefetch": 5}


@sees("stop_when_end")
def test_stop_when_end_ends_with_the_data_or_fails(place, tmp_path):
    entries = [{"path": "questions", "abs_weight": 1, "allow_repeat": False}]
    data = {"dataset_config": place.write_mixture("once", entries), "train_iters": 500}
    ended = train_here(place, tmp_path / "ends", **data, stop_when_end=1)
    steps = len(ended.metrics())
    assert 0 < steps < 500
    assert ended.latest() == steps
    assert ended.progress(steps)["task_documents"] == {"questions": 50}
    with pytest.raises(UserError, match=rf"exhausted after {steps} of 500 steps: use stop_when_end=1 to end there"):
        train_here(place, tmp_path / "fails", **data, stop_when_end=0)
    assert Output(tmp_path / "fails").latest() == steps  # nothing that was trained is lost


@sees("max_damaged_share")
def test_max_damaged_share_allows_some_damage(place, tmp_path):
    path = index(tmp_path / "some", [{"input": "", "output": f"text {i}"} for i in range(50)]) / "data.jsonl"
    times, data = os.stat(path), path.read_bytes()
    path.write_bytes(data.replace(b"text 7", b"tent 7"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    mixture = tmp_path / "m.json"
    mixture.write_text('[{"path": "some", "abs_weight": 1, "task_name": "some"}]')
    with pytest.raises(
        UserError, match=r"1 damaged record\(s\) so far .* more than the share of max_damaged_share=0\.01"
    ):
        train_here(place, tmp_path / "a", dataset_config=mixture, train_iters=20, max_damaged_share=0.01)
    run = train_here(place, tmp_path / "b", dataset_config=mixture, train_iters=20, max_damaged_share=0.06)
    assert run.progress(20)["task_damaged"]["some"] >= 1


@sees("only_run_dataloader")
def test_only_run_dataloader_trains_nothing(run):
    found = run(only_run_dataloader=1)
    assert re.search(
        r"\d tok/s \| fill \d+\.\d% \| rank 0: piece length median \d+, longest \d+ \| prose \d+", found.log
    )
    assert found.log.splitlines()[-1].startswith("stream_sha256 ")
    assert not list(found.root.rglob("fm9g_live_checkpoint*"))
    assert not found.metrics_file.exists()


# optimisation


@sees("train_iters")
def test_train_iters_ends_the_run_and_saves_there(run):
    for end in (0, 1):
        found = run(train_iters=3, stop_when_end=end)
        assert iterations(found) == [1, 2, 3]
        assert found.steps() == [3]


@sees("lr", "warmup_iters", "lr_scheduler", "drop_iters", "drop_begin", "drop_rate")
def test_the_schedule_is_what_the_settings_say(run):
    found = run(
        **{"lr": 0.01, "warmup_iters": 2, "lr_scheduler": "WarmupStableExp", "train_iters": 8},
        **{"drop_iters": 2, "drop_begin": 4, "drop_rate": 0.25},
    )
    assert rates(found) == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.005, 0.0025, 0.00125, 0.000625])
    dropped = run(lr=0.01, warmup_iters=0, lr_scheduler="warmupstabledrop", train_iters=10, drop_iters=0.2)
    assert rates(dropped) == pytest.approx([0.01] * 8 + [0.0055, 0.001])


@sees("lr", "weight_decay")
def test_the_first_update_is_adamws(run):
    """|update| is lr for every element that has a gradient, and the decay is lr · weight_decay · weight."""
    start = run(**FROZEN, warmup_iters=0, train_iters=1).weights(1)
    plain = run(lr=1e-3, warmup_iters=0, weight_decay=0, train_iters=1)
    decayed = run(lr=1e-3, warmup_iters=0, weight_decay=0.5, train_iters=1)
    rate = rates(plain)[0]
    for name, weight in plain.weights(1).items():
        assert (weight - start[name]).abs().max() == pytest.approx(rate, rel=1e-2)
        torch.testing.assert_close(decayed.weights(1)[name], weight - rate * 0.5 * start[name], rtol=1e-4, atol=1e-6)


@sees("betas", "clip_grad")
def test_betas_and_clip_grad_show_in_the_first_moments(run):
    options = {"train_iters": 1, "warmup_iters": 0}
    free = run(**options, clip_grad=0, betas="(0.5, 0.75)")
    (gradient,) = [line["grad_norm"] for line in free.metrics()]
    assert norm(free.optimizer(1), "exp_avg") == pytest.approx(0.5 * gradient, rel=1e-4)
    clipped = run(**options, clip_grad=0.125, betas="(0.9, 0.75)")
    assert clipped.metrics()[0]["grad_norm"] == pytest.approx(gradient)  # as it was before clipping
    assert norm(clipped.optimizer(1), "exp_avg") == pytest.approx(0.1 * 0.125, rel=1e-3)
    second = [run.optimizer(1)["lm_head.weight"]["exp_avg_sq"].sum() for run in (free, clipped)]
    assert float(second[0] / second[1]) == pytest.approx((gradient / 0.125) ** 2, rel=1e-2)


@sees("loss_scale", "loss_scale_factor", "loss_scale_steps", "min_loss_scale")
def test_the_loss_scale_falls_on_overflow_and_rises_again(place, run):
    config = place.write_model("half", dtype="fp16")
    overflowing = run(config=config, loss_scale=2**40, loss_scale_factor=4, loss_scale_steps=2, train_iters=16)
    lines = overflowing.metrics()
    scales = [line["loss_scale"] for line in lines]
    assert scales[:3] == [2**40, 2**38, 2**36]
    assert lines[0]["grad_norm"] is None
    assert "skipped (overflow)" in overflowing.log
    first = next(i for i, line in enumerate(lines) if line["grad_norm"] is not None)
    assert scales[first : first + 3] == [scales[first], scales[first], 4 * scales[first]]
    with pytest.raises(UserError, match=r"iteration 2: loss .* training has diverged"):  # 2**30 is below the least
        run(config=config, loss_scale=2**40, loss_scale_factor=2**10, min_loss_scale=2**35)
    assert [line["loss_scale"] for line in run(config=config).metrics()] == [65536.0] * 4
    assert [line["loss_scale"] for line in run(config=config, loss_scale=0).metrics()] == [1.0] * 4


# what is written


@sees("save", "save_iters")
def test_save_and_save_iters(run):
    assert run(save_iters=3).steps() == [3, 4]
    without = run(save=False, save_iters=1)
    assert without.steps() == []
    assert not (without.checkpoints / "latest").exists()
    assert iterations(without) == [1, 2, 3, 4]


@sees("log_iters")
def test_log_iters_prints_every_so_many_and_the_last(plain, run):
    found = run(log_iters=3)
    assert re.findall(r"^iter (\d)/4 ", found.log, re.MULTILINE) == ["3", "4"]
    assert re.findall(r"^iter (\d)/4 ", plain.log, re.MULTILINE) == ["1", "2", "3", "4"]
    assert iterations(found) == [1, 2, 3, 4]
    assert [step for step, _ in found.events()["Loss/train"]] == [1, 2, 3, 4]


def test_a_run_says_what_it_does_before_its_first_step(plain):
    before = plain.log[: plain.log.index("iter 1/4")].splitlines()
    assert before[0].startswith("starting from step 0")
    assert before.index("opening 2 dataset(s), 170 records") < before.index("building the model")
    assert before[-1] == "step 1 of 4 begins"
    assert "mfu" not in plain.log  # there is none on a CPU


@sees("inspect_iters")
def test_inspect_iters_records_summaries_and_prints_none(plain, run):
    found = run(inspect_iters=2)
    recorded = found.events()["Parameters/lm_head.weight/grad_std"]
    assert [step for step, _ in recorded] == [2, 4]
    assert all(value > 0 for _, value in recorded)
    assert "project_q" not in found.log
    assert not any(tag.startswith("Parameters/") for tag in plain.events())
    assert found.losses() == plain.losses()


@sees("tensorboard_all_tasks", "exp_group")
def test_tensorboard_all_tasks_and_exp_group(plain, run):
    found = run(tensorboard_all_tasks=1, exp_group="group/")
    assert list((found.root / "tensorboard/group/u").glob("events.*"))
    events = found.events()
    assert [value for _, value in events["Loss/train"]] == pytest.approx(plain.losses())
    for line in found.metrics():
        for task, loss in line["task_loss"].items():
            assert dict(events[f"Loss/task/{task}"])[line["iteration"]] == pytest.approx(loss)
            assert dict(events[f"Data/task_tokens/{task}"])[line["iteration"]] == line["task_tokens"][task]
    assert not any("task" in tag for tag in plain.events())


@sees("dry_run")
def test_dry_run_reports_and_starts_nothing(place, tmp_path):
    result = command_here(place.words(tmp_path, dry_run=1, n_gpus=2))
    assert result.returncode == 0
    for part in (
        "parameters, float32, 2 layers",
        "4 rows x 64 = 256 tokens",
        "2 ranks",
        "prose",
        "GB per rank",
        "lanes",
    ):
        assert part in result.output
    assert not list(tmp_path.rglob("metrics.jsonl"))
    assert not list(tmp_path.rglob("[0-9]*"))


@sees("dry_run")
@pytest.mark.parametrize("wrong", [{"tokenizer_path": "nowhere"}, {"resume_ckpt": "7"}, {"max_length": 4096}])
def test_dry_run_checks_everything(place, tmp_path, wrong):
    assert command_here(place.words(tmp_path, dry_run=1, **wrong)).returncode == 1


def test_the_settings_of_a_run_are_in_its_checkpoint(plain):
    saved = plain.state(4)["settings"]
    assert set(saved) == set(FIELDS)
    assert {name: saved[name] for name in SETTINGS} == {**SETTINGS, "save_iters": 1}


def test_every_setting_is_seen():
    assert set(FIELDS) == SEEN
