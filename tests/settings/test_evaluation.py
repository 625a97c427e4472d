"""Held-out evaluation: defaults, what is refused, and what each setting does."""

import json
import re

import pytest

from fm9g.commands.train import check
from fm9g.data.index.build import Options, build
from fm9g.errors import UserError
from fm9g.training.evaluation_settings import EvaluationSettings
from fm9g.training.inputs import open_inputs
from fm9g.training.settings import read_settings
from tests.settings.helpers import FROZEN, defaults, iterations, refused, sees
from tests.support.places import index, prose_records, write_jsonl
from tests.support.runs_here import APP, command_here, refused_here, train_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {
    "eval_dataset": "",
    "validation_split": 0.0,
    "allow_overlap": False,
    "max_eval_samples": None,
    "eval_interval": 500,
    "eval_iters": 0,
    "save_best": False,
    "early_stop": 0,
    "sample_prompts": "",
}


def test_defaults():
    assert defaults(EvaluationSettings) == DEFAULTS


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--eval_interval", "0"], "eval_interval must be whole iterations, or a part of an epoch below 1, not 0"),
        (["--eval_interval", "2.5"], "eval_interval must be whole iterations"),
        (["--eval_iters", "-1"], "eval_iters must be at least 0, not -1"),
    ],
)
def test_values_that_no_run_can_have_are_refused(words, says):
    assert says in refused(*words)


@sees("eval_dataset", "eval_interval", "eval_iters")
def test_what_is_evaluated_and_when(place, run, tmp_path):
    index(tmp_path / "texts", prose_records(160)[120:])
    held_out = place.write_mixture("settings_held_out", [{"path": str(tmp_path / "texts"), "abs_weight": 1}])
    found = run(eval_dataset=held_out, eval_interval=3, eval_iters=2)
    assert [line["iteration"] for line in found.metrics() if line["eval_loss"] is not None] == [3, 4]
    assert [step for step, _ in found.events()["Loss/eval"]] == [0, 3, 4]
    assert "iter 3: held-out loss" in found.log
    tokens = re.search(r"(\d+) tokens, ", found.log)
    assert tokens and 2 * 64 < int(tokens[1]) <= 4 * 64  # two steps of two rows of 64, not all full
    assert run(eval_dataset=held_out, eval_interval=4).metrics()[3]["eval_loss"] != found.metrics()[3]["eval_loss"]


@pytest.fixture
def held_out(place, tmp_path):
    index(tmp_path / "texts", prose_records(160)[120:])
    entry = {"path": str(tmp_path / "texts"), "abs_weight": 1, "task_name": "held"}
    return {"eval_dataset": place.write_mixture("held_out", [entry]), "eval_interval": 1, "save_iters": 100}


@sees("allow_overlap")
def test_records_that_are_trained_on_too_are_refused_unless_that_is_meant(place, tmp_path, monkeypatch):
    """Named by dataset and number, whatever else is in the two datasets."""
    trained = prose_records()
    index(tmp_path / "texts", [*prose_records(140)[120:], trained[7], *trained[30:33], trained[7]])
    entry = {"path": str(tmp_path / "texts"), "abs_weight": 1, "task_name": "held"}
    options = {"eval_dataset": place.write_mixture("overlaps", [entry])}
    message = refused_here(place, tmp_path / "out", **options)
    said = "eval_dataset: 5 of its 25 records are trained on too, the first of them: record 20 (line 21) of dataset "
    assert message.startswith(said + "'held' is record 7 (line 8) of 'prose'; record 21 (line 22) of dataset 'held' is")
    assert message.endswith("or say --allow_overlap 1")
    assert message in command_here(place.words(tmp_path / "dry", **options, dry_run=1)).output
    with pytest.raises(UserError, match="5 of its 25 records are trained on too"):
        check(read_settings(place.words(tmp_path / "launched", **options)), APP)
    allowed = train_here(place, tmp_path / "allowed", **options, allow_overlap=1)
    assert "warning: eval_dataset: 5 of its 25 records are trained on too" in allowed.log
    train_here(place, tmp_path / "few", **options, max_eval_samples=20)
    train_here(place, tmp_path / "fewer", **options, max_train_samples=7)
    monkeypatch.setattr("fm9g.training.run.COMPARED_AT_START", 100)
    large = train_here(place, tmp_path / "large", **options).log
    assert "it was compared with 'prose' by digests of whole datasets alone, for a start compares 100 records" in large
    same = refused_here(place, tmp_path / "same", eval_dataset=place.mixture)
    assert re.search(r"eval_dataset: dataset 'prose' holds the records of .*, which is trained on; take", same)


def test_a_dataset_that_grew_from_the_one_trained_on_is_refused_before_any_process(place, tmp_path):
    grown = index(tmp_path / "grown", prose_records())
    build(write_jsonl(tmp_path / "more.jsonl", prose_records(140)[120:]), grown, "en", Options(append=True))
    entry = {"path": str(grown), "abs_weight": 1, "task_name": "grown"}
    settings = read_settings(place.words(tmp_path / "out", eval_dataset=place.write_mixture("grown", [entry])))
    with pytest.raises(UserError, match=r"dataset 'grown' holds the records of .*prose, which is trained on"):
        check(settings, APP)


@sees("save_best")
def test_the_best_is_saved(run, held_out):
    assert run(**held_out, save_best=1, lr=1e-2).steps() == [1, 2, 3, 4]  # each step is better than the one before
    assert run(**held_out, lr=1e-2).steps() == [4]


@sees("early_stop")
def test_a_run_that_gets_no_better_ends(run, held_out):
    assert iterations(run(**held_out, **FROZEN, early_stop=2)) == [1, 2]
    assert iterations(run(**held_out, **FROZEN)) == [1, 2, 3, 4]


@sees("sample_prompts")
def test_prompts_are_gone_on_with_at_each_evaluation(run, held_out, tmp_path):
    (tmp_path / "prompts.txt").write_text("the tiny\n\na model\n")
    plain = run(**held_out)
    found = run(**held_out, sample_prompts=tmp_path / "prompts.txt")
    assert [found.log.count(f"iter {step}: the tiny => ") for step in range(6)] == [1, 1, 1, 1, 1, 0]
    assert found.learned() == plain.learned()
    assert [step for step, _ in found.events()["Samples/1/text_summary"]] == [0, 1, 2, 3, 4]
    (tmp_path / "prompts.json").write_text('["of\\nthem"]')
    assert run(**held_out, sample_prompts=tmp_path / "prompts.json").log.count(": of\\nthem => ") == 5
    assert run(**held_out, sample_prompts='["of them"]').log.count(": of them => ") == 5
    assert run(sample_prompts='["of them"]').learned() == run().learned()  # without an evaluation nothing


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("none.txt", "sample_prompts: none.txt"),
        ("[1]", "sample_prompts: must be a list of texts"),
        ('["a"', "sample_prompts: no list in JSON"),
        ("[]", "sample_prompts: 0 prompts; give 1 to 32"),
        (f'["{"a b " * 200}"]', "sample_prompts: a prompt of .* tokens, and the model takes 128"),
    ],
)
def test_prompts_that_are_none_are_refused(place, held_out, tmp_path, value, says):
    assert re.search(says, refused_here(place, tmp_path / "out", **held_out, sample_prompts=value))


@sees("validation_split", "max_eval_samples")
def test_a_part_of_each_dataset_is_held_out_and_never_trained_on(place, tmp_path):
    options = {"validation_split": 0.2, "eval_interval": 4, "train_iters": 40, "batch_size": 4, "save_iters": 20}
    inputs = open_inputs(read_settings(place.words(tmp_path / "x", **options)), APP)
    for corpus, out in zip(inputs.corpora, inputs.held_out, strict=True):
        records = len(corpus.dataset)
        read = {corpus.record(position) for position in range(3 * records)}
        assert not read & {out.record(position) for position in range(out.records)}
        assert corpus.records + out.records == records and 0.1 < out.records / records < 0.3
    whole = train_here(place, tmp_path / "whole", **options)
    assert "iter 40: held-out loss" in whole.log and "trained on" not in whole.log
    learned = whole.learned()
    assert train_here(place, tmp_path / "whole", **options, resume_ckpt=20).learned() == learned
    message = refused_here(place, tmp_path / "whole", **options | {"validation_split": 0.3}, resume_ckpt=20)
    assert "part was [800, none] when the checkpoint was made and is [700, none] now" in message
    message = refused_here(place, tmp_path / "whole", **options | {"validation_split": 0}, resume_ckpt=20)
    assert "part was [800, none] when the checkpoint was made and is none now" in message
    few = open_inputs(read_settings(place.words(tmp_path / "x", **options, max_eval_samples=3)), APP)
    assert [corpus.records for corpus in few.held_out] == [3, 3]
    assert "both say what is held out" in refused("--validation_split", "0.1", "--eval_dataset", "x")
    changed = options | {"train_iters": None, "num_train_epochs": 2, "eval_interval": 0.5}
    half = open_inputs(read_settings(place.words(tmp_path / "y", **changed)), APP).settings
    assert half.eval_interval == pytest.approx(half.train_iters / 4, abs=1)
    assert "0.5 of an epoch" in half.source("eval_interval")
    nothing = refused_here(place, tmp_path / "none", **options | {"validation_split": 0.001})
    assert "none is in the part that is asked for" in nothing


def test_what_is_wrong_with_it_is_told_by_the_setting_that_holds_it_out(place, tmp_path):
    options = {"validation_split": 0.2, "max_length": 16, "train_iters": 2}
    assert "of validation_split: " in train_here(place, tmp_path, **options).log


def test_a_dataset_of_which_nothing_is_held_out_is_named(place, tmp_path, capsys):
    """As a handful of records beside a large dataset are."""
    index(tmp_path / "few", prose_records(2))
    entries = [*json.loads(place.mixture.read_text()), {"path": str(tmp_path / "few"), "abs_weight": 1}]
    mixture = place.write_mixture("with_few", entries)
    options = {"dataset_config": mixture, "validation_split": 0.1}
    inputs = open_inputs(read_settings(place.words(tmp_path, **options)), APP)
    assert [corpus.entry.task_name for corpus in inputs.held_out] == [entry["task_name"] for entry in entries[:-1]]
    assert "validation_split 0.1 holds none of its 2 records out, so it is not evaluated on" in capsys.readouterr().err
