"""The result files of a run, by the names that users of transformers look for."""

import json
import math

import pytest

from tests.support.outputs import copy_output
from tests.support.runs_here import train_here

pytestmark = pytest.mark.usefixtures("single_rank")
FILES = ("train_results", "eval_results", "trainer_state")


def results(output):
    paths = [output.root / f"checkpoints/logs/u/{name}.json" for name in FILES]
    return {path.stem: json.loads(path.read_text()) for path in paths if path.exists()}


@pytest.fixture(scope="module")
def watched(place, tmp_path_factory):
    settings = {
        "eval_dataset": place.mixture,
        "allow_overlap": 1,
        "eval_interval": 2,
        "log_iters": 2,
        "save_iters": 1,
        "train_iters": 5,
    }
    return train_here(place, tmp_path_factory.mktemp("watched"), **settings), settings


def test_what_was_trained_is_told(watched):
    run, lines = watched[0], watched[0].metrics()
    found, seconds = results(run)["train_results"], sum(line["step_seconds"] for line in lines)
    assert found["train_loss"] == pytest.approx(sum(line["loss"] for line in lines) / 5)
    assert found["train_runtime"] == pytest.approx(seconds)
    assert found["train_samples"] == sum(lines[-1]["task_documents"].values()) > 0
    assert found["train_samples_per_second"] * seconds == pytest.approx(found["train_samples"])
    assert found["train_steps_per_second"] == pytest.approx(5 / seconds)
    assert found["epoch"] == min(lines[-1]["task_epochs"].values()) > 0


def test_what_was_held_out_is_told(watched):
    found, last = results(watched[0])["eval_results"], watched[0].metrics()[-1]
    assert found["eval_loss"] == last["eval_loss"]
    assert found["perplexity"] == pytest.approx(math.exp(last["eval_loss"]))
    assert found["eval_accuracy"] == last["eval_seen"]["accuracy"]
    assert found["eval_task_loss"] == last["eval_task_loss"]


def test_the_history_is_that_of_the_log(watched):
    run, lines = watched[0], {line["iteration"]: line for line in watched[0].metrics()}
    state = results(run)["trainer_state"]
    assert (state["global_step"], state["max_steps"], state["logging_steps"]) == (5, 5, 2)
    told = [(entry["step"], "eval_loss" in entry) for entry in state["log_history"]]
    assert told == [(2, False), (2, True), (4, False), (4, True), (5, False), (5, True)]
    for entry in state["log_history"]:
        line = lines[entry["step"]]
        same = ("eval_loss", "eval_perplexity") if "eval_loss" in entry else ("loss", "grad_norm")
        assert [entry[key] for key in same] == [line[key] for key in same]
    best = min((line["eval_loss"], step) for step, line in lines.items() if line["eval_loss"])
    assert state["best_metric"] == best[0]
    assert state["best_model_checkpoint"] == str(run.root / f"checkpoints/u/{best[1]}")


def test_a_resumed_run_tells_of_all_of_it(place, watched, tmp_path):
    run, settings = watched
    own = copy_output(run, tmp_path / "own")
    train_here(place, own.root, **settings, resume_ckpt=3)
    assert [entry["step"] for entry in results(own)["trainer_state"]["log_history"]] == [2, 2, 4, 4, 5, 5]
    assert results(own)["eval_results"]["eval_loss"] == results(run)["eval_results"]["eval_loss"]
    assert own.metrics()[-1]["iteration"] == 5


def test_nothing_is_told_of_what_was_not_held_out(place, tmp_path):
    run = train_here(place, tmp_path, train_iters=2)
    assert set(results(run)) == {"train_results", "trainer_state"}
    state = results(run)["trainer_state"]
    assert (state["best_metric"], state["best_model_checkpoint"]) == (None, None)


def test_the_last_iteration_is_in_the_history_as_in_the_log(place, tmp_path):
    run = train_here(place, tmp_path, train_iters=2, log_iters=3)
    assert [entry["step"] for entry in results(run)["trainer_state"]["log_history"]] == [2]
