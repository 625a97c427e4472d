"""A run's data across resumes: the stream and its digest, other layouts, changed mixtures, changed data."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.stream.loader import STREAM_RULES
from fm9g.data.tokens.tokenizer import HuggingFaceTokenizer
from fm9g.errors import UserError
from tests.support.outputs import Output
from tests.support.places import index
from tests.support.runs_here import train_here

pytestmark = pytest.mark.usefixtures("single_rank")
DATA = {"only_run_dataloader": 1, "save_iters": 8}


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory, single_rank):
    """20 steps of the data stream with checkpoints at 8 and 16: read it, do not change it."""
    return train_here(place, tmp_path_factory.mktemp("whole"), train_iters=20, **DATA)


@pytest.fixture
def first_half(whole, tmp_path):
    """What was there after step 8."""
    shutil.copytree(whole.checkpoints / "8", tmp_path / "half/checkpoints/u/8")
    return Output(tmp_path / "half")


def resume(place, output, **changes):
    return train_here(place, output.root, **{"resume_ckpt": "latest", "train_iters": 20, **DATA, **changes})


def refused(place, output, **changes):
    with pytest.raises(UserError) as error:
        resume(place, output, **changes)
    return str(error.value)


def test_the_last_line_is_the_digest_of_the_stream(whole):
    digest = whole.progress(20)["stream_sha256"]
    assert whole.log.splitlines()[-1] == f"stream_sha256 {digest}"
    assert len({whole.progress(step)["stream_sha256"] for step in (8, 16, 20)}) == 3


def test_the_report_has_rate_fill_lengths_and_shares(whole):
    report = whole.log.splitlines()[-3]
    for part in (
        "data 20/20 |",
        "tok/s",
        "| fill ",
        "piece length median",
        "longest",
        "prose ",
        "questions ",
        "documents",
        "epochs",
    ):
        assert part in report


def test_a_data_run_writes_no_weights(whole):
    assert sorted(path.name for path in (whole.checkpoints / "20").iterdir()) == [
        "data-00000.pt",
        "manifest.json",
        "state.json",
    ]


def test_training_sees_the_same_stream(place, whole, tmp_path):
    run = train_here(place, tmp_path, train_iters=8)
    assert run.progress(8)["stream_sha256"] == whole.progress(8)["stream_sha256"]
    assert run.progress(8)["task_documents"] == whole.progress(8)["task_documents"]


def test_a_resume_continues_the_stream(place, whole, first_half):
    run = resume(place, first_half)
    assert run.progress(20) == whole.progress(20)
    assert run.steps() == [8, 16, 20]


def test_the_digest_is_over_every_row(place, whole, tmp_path):
    other = train_here(place, tmp_path, train_iters=20, **DATA, seed=6)
    assert other.progress(20)["stream_sha256"] != whole.progress(20)["stream_sha256"]


def test_grad_accum_is_adjusted_to_keep_the_rows_of_a_step(place, whole, first_half):
    run = resume(place, first_half, batch_size=2, grad_accum=5)
    assert "grad_accum is 1 (not 5) to keep the checkpoint's 2 rows per step" in run.log
    assert run.progress(20) == whole.progress(20)


def test_rows_that_do_not_fit_are_refused_with_those_that_do(place, first_half):
    message = refused(place, first_half, batch_size=3)
    assert "2 rows per step, which 1 rank(s) with batch_size 3 cannot divide" in message
    assert "batch_size 1 with grad_accum 2, batch_size 2 with grad_accum 1" in message


def test_the_length_of_rows_may_not_change(place, first_half):
    message = refused(place, first_half, max_length=32)
    assert message.startswith("max_length was ")
    assert "is 32 now" in message
    assert resume(place, first_half, max_length=32, load_dataloader_ckpt=0).latest() == 20


@pytest.mark.parametrize("rules", [STREAM_RULES - 1, None])
def test_a_checkpoint_whose_records_came_in_another_order_is_refused(place, first_half, rules):
    path = first_half.checkpoints / "8/state.json"
    state = json.loads(path.read_text())
    state["stream"].pop("rules") if rules is None else state["stream"].update(rules=rules)
    path.write_text(json.dumps(state))
    first_half.take_as_written(8)
    message = refused(place, first_half)
    assert f"the rules of another version of fm9g ({rules or 'none'}, this one has {STREAM_RULES})" in message
    assert "its records would come in another order" in message
    assert "continue with that version, or use load_dataloader_ckpt=0 to start the data anew" in message
    assert resume(place, first_half, load_dataloader_ckpt=0).latest() == 20


def test_a_resume_of_another_kind_of_run_is_refused(place, first_half):
    assert "is a checkpoint of a dataloader run, this is a training run" in refused(
        place, first_half, only_run_dataloader=0
    )


# the mixture changes between runs


@pytest.fixture
def mixture(place):
    def write(name, *entries):
        return place.write_mixture(name, [{"path": path, "abs_weight": weight} for path, weight in entries])

    return write


def taken(output, step):
    """{task: documents done by all lanes}, from the data state of a checkpoint."""
    tasks = [task["name"] for task in output.state(step)["stream"]["tasks"]]
    states = torch.load(output.checkpoints / str(step) / "data-00000.pt", weights_only=True)["states"]
    columns = states[:, :-1].reshape(len(states), 4, len(tasks))
    within = [sum(bin(mask).count("1") for mask in columns[:, 3, task].tolist()) for task in range(len(tasks))]
    return {name: int(columns[:, 0, task].sum()) + within[task] for task, name in enumerate(tasks)}


def test_the_order_of_the_mixture_does_not_matter(place, whole, first_half, mixture):
    run = resume(place, first_half, dataset_config=mixture("turned", ("questions", 0.3), ("prose", 0.7)))
    assert run.progress(20)["task_documents"] == whole.progress(20)["task_documents"]
    assert taken(run, 20) == taken(whole, 20)


def test_a_change_of_weights_keeps_the_positions(place, first_half, mixture):
    before = taken(first_half, 8)
    tokens = first_half.progress(8)["task_tokens"]
    changed = mixture("weights", ("prose", 0.01), ("questions", 0.99))
    run = resume(place, first_half, train_iters=60, dataset_config=changed)
    after = taken(run, 60)
    assert after["prose"] >= before["prose"]
    assert after["questions"] > 3 * before["questions"]
    gained = {task: run.progress(60)["task_tokens"][task] - tokens[task] for task in tokens}
    assert gained["questions"] > 3 * gained["prose"]  # what was begun before is finished


def test_a_dataset_can_join(place, first_half, mixture):
    index(place.root / "more", [{"input": "", "output": f"more of it, {i}"} for i in range(30)])
    before = taken(first_half, 8)
    entries = [("prose", 0.5), ("questions", 0.2), ("more", 0.3)]
    run = resume(place, first_half, dataset_config=mixture("joined", *entries))
    after = taken(run, 20)
    assert after["more"] > 0
    assert after["prose"] > before["prose"]
    assert run.progress(20)["task_documents"]["more"] > 0


def test_a_dataset_can_leave(place, first_half, mixture):
    run = resume(place, first_half, dataset_config=mixture("left", ("questions", 1)))
    assert set(taken(run, 20)) == {"questions"}
    assert taken(run, 20)["questions"] > taken(first_half, 8)["questions"]
    assert run.progress(20)["task_documents"]["prose"] == first_half.progress(8)["task_documents"]["prose"]


def test_what_a_balance_depends_on_is_saved(whole):
    for task in whole.state(8)["stream"]["tasks"]:
        assert {"name", "share", "epochs", "fingerprint"} <= task.keys()
        assert task["epochs"] is None


# the data changes between runs


@pytest.fixture
def replaced(place, tmp_path):
    """A run of 8 steps on a dataset of its own, whose file is then replaced: (output, mixture)."""
    index(tmp_path / "mine", [{"input": "", "output": f"the first text {i}"} for i in range(40)])
    mixture = tmp_path / "m.json"
    mixture.write_text('[{"path": "mine", "abs_weight": 1, "task_name": "mine"}]')
    run = train_here(place, tmp_path / "out", train_iters=8, dataset_config=mixture, **DATA)
    shutil.rmtree(tmp_path / "mine")
    index(tmp_path / "mine", [{"input": "", "output": f"another text {i}"} for i in range(40)])
    return run, mixture


def test_a_changed_dataset_is_refused_by_name(place, replaced):
    run, mixture = replaced
    message = refused(place, run, dataset_config=mixture)
    assert message.startswith("dataset 'mine' (")
    assert "is not the file that the checkpoint was made with" in message


def test_a_changed_dataset_can_be_accepted(place, replaced):
    run, mixture = replaced
    assert resume(place, run, dataset_config=mixture, accept_changed_data=1).latest() == 20


def test_a_changed_dataset_under_a_new_name_starts_at_its_beginning(place, replaced):
    run, mixture = replaced
    mixture.write_text(mixture.read_text().replace('"task_name": "mine"', '"task_name": "new"'))
    again = resume(place, run, dataset_config=mixture)
    assert set(taken(again, 20)) == {"new"}


def test_a_change_of_special_tokens_is_refused_unless_accepted(place, first_half):
    entries = [{"path": path, "abs_weight": weight} for path, weight in (("prose", 0.7), ("questions", 0.3))]
    entries[1]["special_tokens"] = True
    mixture = place.write_mixture("special", entries)
    message = refused(place, first_half, dataset_config=mixture)
    assert "dataset 'questions': special_tokens was false when the checkpoint was made and is true now" in message
    assert resume(place, first_half, dataset_config=mixture, accept_changed_data=1).latest() == 20


def test_a_changed_tokenizer_is_refused(place, first_half, tmp_path):
    shutil.copytree(place.tokenizer, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content))
    assert refused(place, first_half, tokenizer_path=tmp_path / "tokenizer").startswith("tokenizer was ")


def test_datasets_and_tokenizer_are_opened_once(place, tmp_path, mixture, monkeypatch):
    """By the checks, the training and every evaluation together."""
    opened = []
    for kind in (IndexedDataset, HuggingFaceTokenizer):

        def noted(self, path, real=kind.__init__):
            opened.append(Path(path).name)
            real(self, path)

        monkeypatch.setattr(kind, "__init__", noted)
    held_out = mixture("held_out", ("questions", 1))
    train_here(
        place,
        tmp_path,
        train_iters=2,
        dataset_config=mixture("one", ("prose", 1)),
        eval_dataset=held_out,
        eval_interval=1,
    )
    assert sorted(opened) == ["prose", "questions", "tokenizer.json"]
