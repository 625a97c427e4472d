"""Held-out evaluation: what it measures, and that a run with it is the run without it."""

import json
import math
import os
import re

import pytest
import torch
from torch.nn import functional as F

from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.support.apps import run_app, run_killed
from tests.support.outputs import Output, copy_output
from tests.support.places import index, prose_records, question_records
from tests.support.runs_here import command_here, train_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")
LONG = {"input": "", "output": "a tiny model " * 200}


@pytest.fixture(scope="module")
def held_out(place, tmp_path_factory):
    """A mixture of 30 texts and 20 questions, none of which is cut."""
    folder = tmp_path_factory.mktemp("held_out")
    index(folder / "texts", prose_records(150)[120:])
    index(folder / "asked", question_records(70)[50:])
    entries = [
        {"path": str(folder / name), "task_name": name, "abs_weight": 1, "oversize_rule": "head"}
        for name in ("texts", "asked")
    ]
    return place.write_mixture("held_out", entries)


def evaluated(output):
    return {line["iteration"]: line["eval_loss"] for line in output.metrics() if line["eval_loss"] is not None}


def test_losses_are_the_same_with_and_without_it(place, tmp_path, held_out):
    """With dropout, which draws random numbers in every step."""
    config = {"config": place.write_model("dropout", dropout_p=0.1), "save_iters": 2}
    without = train_here(place, tmp_path / "without", **config)
    watched = train_here(place, tmp_path / "watched", **config, eval_dataset=held_out, eval_interval=1)
    assert watched.learned() == without.learned()
    assert watched.progress(4) == without.progress(4)
    assert list(evaluated(watched)) == [1, 2, 3, 4]
    assert evaluated(without) == {}
    weights = without.weights(4)
    assert all(torch.equal(weight, weights[name]) for name, weight in watched.weights(4).items())


def assert_made_when_the_run_goes_on(place, folder, broken_off, step, **settings):
    """The evaluation with the number `broken_off` of a run, after `step`, is broken off, and made by the same command:
    then it is the run that was never stopped."""
    whole, own = train_here(place, folder / "whole", **settings), Output(folder / "own")
    with training_here(place, own.root, **settings) as loop:
        measure, begun = loop.evaluation.run, []

        def run(stops):
            begun.append(stops)
            return measure(lambda: len(begun) == broken_off)

        loop.evaluation.run = run
        loop.run()
        assert loop.stream.stopped
    assert own.steps() == ([step] if step else [])
    assert not (own.metrics_file.parent / "train_results.json").exists()
    train_here(place, own.root, **settings, resume_ckpt="latest")
    assert own.learned() == whole.learned()
    assert evaluated(own) == evaluated(whole)
    best = [(output.checkpoints / "best").read_text() for output in (own, whole)]
    assert best[0] == best[1]
    results = [json.loads((output.metrics_file.parent / "eval_results.json").read_text()) for output in (own, whole)]
    assert results[0]["eval_loss"] == results[1]["eval_loss"]


@pytest.mark.parametrize(("broken_off", "step"), [(1, None), (2, 2), (3, 4)])
def test_an_evaluation_is_broken_off_when_the_run_is_asked_to_stop(place, tmp_path, held_out, broken_off, step):
    """At the start, between steps and at the end."""
    settings = {"eval_dataset": held_out, "eval_interval": 2, "early_stop": 5}
    assert_made_when_the_run_goes_on(place, tmp_path, broken_off, step, **settings)


def test_an_evaluation_at_the_end_of_the_data_is_made_later_too(place, tmp_path, held_out):
    once = place.write_mixture("once_broken_off", [{"path": "questions", "abs_weight": 1, "allow_repeat": False}])
    settings = {"dataset_config": once, "train_iters": 500, "stop_when_end": 1, "eval_dataset": held_out}
    step = train_here(place, tmp_path / "first", **settings).steps()[-1]
    assert_made_when_the_run_goes_on(place, tmp_path, 2, step, **settings)


def test_a_resumed_run_evaluates_as_one_that_never_stopped(place, tmp_path, held_out):
    settings = {"eval_dataset": held_out, "eval_interval": 2, "save_iters": 1}
    whole = train_here(place, tmp_path / "whole", **settings)
    assert list(evaluated(whole)) == [2, 4]
    own = copy_output(whole, tmp_path / "own")
    train_here(place, own.root, **settings, resume_ckpt=1)
    assert own.learned() == whole.learned()
    assert evaluated(own) == evaluated(whole)


@pytest.mark.soak  # that a killed run goes on is tried in tests/end_to_end; here beside evaluations
def test_a_run_killed_after_an_evaluation_goes_on(place, tmp_path, held_out):
    settings = {"eval_dataset": held_out, "eval_interval": 1, "save_iters": 1}
    assert run_app(place.words(tmp_path / "whole", **settings), tmp_path).returncode == 0
    whole = Output(tmp_path / "whole")
    words = place.words(tmp_path / "killed", **settings, resume_ckpt="latest")
    run_killed(words, tmp_path, 3)
    assert run_app(words, tmp_path).returncode == 0
    killed = Output(tmp_path / "killed")
    assert killed.learned() == whole.learned()
    assert evaluated(killed) == evaluated(whole)


def by_hand(loop, place, records):
    """The loss of texts, one by one, in float64: (sum, number of targets, how many are the likeliest token)."""
    tokenizer = load_tokenizer(place.tokenizer)
    total, count, hits = 0.0, 0, 0
    for record in records:
        prompt, answer = (tokenizer.encode(record[key]) if record[key] else [] for key in ("input", "output"))
        tokens = torch.tensor([tokenizer.bos_id, *prompt, *answer, tokenizer.eos_id])
        with torch.no_grad():
            model = loop.learner.model
            logits = model(tokens[:-1], model.context([len(tokens) - 1])).double()
        losses = F.cross_entropy(logits, tokens[1:], reduction="none")[len(prompt) :]
        total, count = total + losses.sum().item(), count + len(losses)
        hits += (logits.argmax(1) == tokens[1:])[len(prompt) :].sum().item()
    return total, count, hits


def test_it_is_the_mean_over_all_targets_of_every_record(place, tmp_path, held_out):
    with training_here(place, tmp_path, eval_dataset=held_out, max_length=128) as loop:
        found = loop.evaluation.run()
        sums = [by_hand(loop, place, records) for records in (prose_records(150)[120:], question_records(70)[50:])]
    totals, counts, hits = (sum(column) for column in zip(*sums, strict=True))
    expected = totals / counts
    assert found.seen == {"accuracy": hits / counts}
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-4)
    for name, (total, count, _) in zip(("texts", "asked"), sums, strict=True):
        assert found.task_loss[name] == pytest.approx(total / count, rel=1e-5)


def test_two_ranks_find_what_one_finds(place, tmp_path, held_out):
    settings = {"eval_dataset": held_out, "eval_interval": 4}
    one = train_here(place, tmp_path / "one", **settings)
    two = run_app(place.words(tmp_path / "two", **settings, n_gpus=2, grad_accum=1), tmp_path)
    assert two.returncode == 0, two.output
    found = Output(tmp_path / "two")
    assert evaluated(found)[4] == pytest.approx(evaluated(one)[4], rel=1e-5)
    assert found.metrics()[-1]["eval_task_loss"].keys() == {"texts", "asked"}


def test_batches_make_no_difference(place, tmp_path, held_out):
    """Not even where an evaluation reads a part: the same rows are read."""
    settings = {"eval_dataset": held_out, "train_iters": 1, "warmup_iters": 0, "lr": 0, "eval_iters": 1}
    first, *others = (
        train_here(place, tmp_path / f"{batch}", **settings, batch_size=batch, grad_accum=12 // batch).metrics()[0]
        for batch in (1, 3, 4)
    )
    for other in others:
        assert other["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-6)
        assert other["eval_task_loss"] == pytest.approx(first["eval_task_loss"], rel=1e-6)


def test_what_a_run_starts_from_is_evaluated_and_what_a_finished_one_has_come_to(place, tmp_path, held_out):
    run = train_here(place, tmp_path, eval_dataset=held_out, eval_interval=4, lr=0)
    assert evaluated(run).keys() == {4}
    (first, before), (last, after) = run.events()["Loss/eval"]
    assert (first, last) == (0, 4)
    assert before == pytest.approx(after, rel=1e-6)
    said = train_here(place, tmp_path, eval_dataset=held_out, resume_ckpt="latest").log
    assert f"iter 4: held-out loss {evaluated(run)[4]:.4f}" in said


def test_a_mistake_in_held_out_data_is_found_before_training(place, tmp_path):
    transform = tmp_path / "bad.py"
    transform.write_text("def transform(data, num_sample, r):\n    return {'input': '', 'output': data['no']}\n")
    folder = index(tmp_path / "asked", question_records(70)[50:])
    entry = {"path": str(folder), "abs_weight": 1, "task_name": "asked", "transforms": str(transform)}
    mixture = place.write_mixture("bad_transform", [entry])
    says = r"eval_dataset: dataset 'asked', record .*: the transform raised KeyError"
    with pytest.raises(UserError, match=says):
        train_here(place, tmp_path / "out", eval_dataset=mixture)
    result = command_here(place.words(tmp_path / "out", eval_dataset=mixture, dry_run=1))
    assert result.returncode == 1
    assert re.search(says, result.output)


def test_a_transform_that_draws_chance_disturbs_nothing(place, tmp_path):
    """Wherever held-out data is read: for the samples of a run's start, and in evaluations."""
    draws = tmp_path / "draws.py"
    draws.write_text(
        "import random, numpy, torch\n"
        "def transform(data, num_sample, r):\n"
        "    chance = random.gauss(0, 1) + numpy.random.normal() + torch.rand(()).item()\n"
        "    return {'input': '', 'output': data['output'] + str(chance)}\n"
    )
    folder = index(tmp_path / "texts", prose_records(160)[120:])
    entry = {"path": str(folder), "abs_weight": 1, "task_name": "drawn", "transforms": str(draws)}
    mixture = place.write_mixture("drawing", [entry])
    config = {"config": place.write_model("drawing", dropout_p=0.1), "dataloader_num_workers": 0}
    without = train_here(place, tmp_path / "without", **config)
    watched = train_here(place, tmp_path / "watched", **config, eval_dataset=mixture, eval_interval=1)
    assert watched.learned() == without.learned()


def test_damage_within_a_part_is_counted_anew_each_time(place, tmp_path):
    mixture = dropping_mixture(place, tmp_path / "few_damaged", prose_records(160)[120:])
    damaged(tmp_path / "few_damaged", 2)
    found = train_here(
        place, tmp_path / "out", eval_dataset=mixture, eval_interval=1, eval_iters=8, max_damaged_share=0.05
    )
    assert list(evaluated(found)) == [1, 2, 3, 4]


def test_held_out_data_of_a_resumed_run_is_looked_at_before_it_goes_on(place, tmp_path):
    run = train_here(place, tmp_path / "out", train_iters=2)
    nothing = dropping_mixture(place, tmp_path / "long_ones", [LONG] * 5)
    with pytest.raises(UserError, match="eval_dataset: nothing that an evaluation reads of it has a target"):
        train_here(place, run.root, resume_ckpt="latest", train_iters=6, eval_dataset=nothing, max_length=64)
    assert len(run.metrics()) == 2


def test_settings_of_an_evaluation_that_there_is_not_are_told(place, tmp_path):
    said = train_here(place, tmp_path / "out", eval_interval=2, train_iters=1, warmup_iters=0).log
    assert "warning: eval_interval means nothing without eval_dataset" in said


def test_the_last_step_of_data_that_ends_early_is_evaluated(place, tmp_path, held_out):
    once = place.write_mixture("once_held_out", [{"path": "questions", "abs_weight": 1, "allow_repeat": False}])
    settings = {"dataset_config": once, "train_iters": 500, "stop_when_end": 1, "eval_dataset": held_out}
    found = train_here(place, tmp_path, **settings)
    assert 0 < len(found.metrics()) < 500
    assert list(evaluated(found)) == [len(found.metrics())]


def test_the_last_step_is_evaluated_where_what_follows_is_left_out(place, tmp_path, held_out):
    """That it was the last shows only when the records after it are read: whichever comes last in the data's order."""
    index(tmp_path / "mostly_long", [*prose_records(10), *[LONG] * 30])
    entry = {"path": str(tmp_path / "mostly_long"), "abs_weight": 1, "allow_repeat": False, "oversize_rule": "drop"}
    once = place.write_mixture("mostly_long", [{**entry, "task_name": "long"}])
    settings = {"dataset_config": once, "train_iters": 500, "stop_when_end": 1, "eval_dataset": held_out}
    for seed in (1, 2, 3):
        found = train_here(place, tmp_path / str(seed), **settings, max_length=128, seed=seed)
        iterations = [line["iteration"] for line in found.metrics()]
        assert iterations == list(range(1, len(iterations) + 1))
        assert list(evaluated(found)) == iterations[-1:]
        assert [step for step, _ in found.events()["Loss/eval"]] == [0, *iterations[-1:]]


def dropping_mixture(place, folder, records):
    index(folder, records)
    entry = {"path": str(folder), "task_name": folder.name, "abs_weight": 1, "oversize_rule": "drop"}
    return place.write_mixture(folder.name, [entry])


def test_data_that_tells_nothing_is_refused_before_training(place, tmp_path):
    nothing = dropping_mixture(place, tmp_path / "all_long", [LONG] * 5)
    with pytest.raises(UserError, match="eval_dataset: nothing that an evaluation reads of it has a target"):
        train_here(place, tmp_path / "out", eval_dataset=nothing, max_length=128)
    assert not list(tmp_path.glob("out/checkpoints/u/[0-9]*"))


def damaged(folder, count):
    """Change a byte of the text of the first `count` records."""
    lines = (folder / "data.jsonl").read_bytes().splitlines(keepends=True)
    lines[:count] = [line[:-4] + bytes([line[-4] ^ 1]) + line[-3:] for line in lines[:count]]
    (folder / "data.jsonl").write_bytes(b"".join(lines))
    os.utime(folder / "index.h5")  # else its time gives the change away


def test_damage_is_named_and_too_much_of_it_refused(place, tmp_path):
    mixture = dropping_mixture(place, tmp_path / "damaged", prose_records(160)[120:])
    damaged(tmp_path / "damaged", 4)
    with pytest.raises(UserError, match=r"dataset 'damaged': \d damaged record\(s\) so far .*max_damaged_share"):
        train_here(place, tmp_path / "refused", eval_dataset=mixture, eval_interval=1)
    found = train_here(place, tmp_path / "taken", eval_dataset=mixture, eval_interval=1, max_damaged_share=0.1)
    assert list(evaluated(found)) == [1, 2, 3, 4]
    assert found.log.count("skips a damaged record") == 4  # said once, counted in each evaluation


def test_records_that_are_left_out_are_counted(place, tmp_path):
    dropping = dropping_mixture(place, tmp_path / "long", [*prose_records(125)[120:], LONG])
    assert " tokens, " in (said := train_here(place, tmp_path / "out", eval_dataset=dropping, max_length=128).log)
    assert "dataset 'long': records are left out, record 5 (line 6): " in said
    assert ", 1 left out" in said


def test_that_the_data_alone_is_not_evaluated_is_said(place, tmp_path, held_out):
    said = train_here(place, tmp_path / "data", eval_dataset=held_out, only_run_dataloader=1).log
    assert "warning: what is held out is checked and not read" in said


@pytest.mark.parametrize("wrong", ["nowhere", "mine.json"])
def test_a_held_out_mixture_that_is_not_there_fails_before_anything_is_made(place, tmp_path, wrong):
    with pytest.raises(UserError, match=wrong):
        train_here(place, tmp_path / "out", eval_dataset=wrong)
    assert not list(tmp_path.iterdir())
