"""num_train_epochs: a run reads its data so often, also where documents that are not cut leave room in rows."""

import pytest

from fm9g.data.stream import dry_read
from fm9g.errors import UserError
from fm9g.training.inputs import open_inputs
from fm9g.training.settings import read_settings
from tests.support.places import index
from tests.support.runs_here import APP, train_here

pytestmark = pytest.mark.usefixtures("single_rank")
OPTIONS = {"batch_size": 2, "max_length": 128, "train_iters": None}


def record(number, words):
    turns = ("human", f"Question {number}?"), ("assistant", " ".join(["word"] * words))
    return {"conversations": [{"from": who, "value": value} for who, value in turns]}


@pytest.fixture
def conversations(place, tmp_path):
    """Makes a mixture of so many conversations that are somewhat longer than half a row, or short ones."""

    def make(count, repeats, words=(30, 45)):
        path = index(tmp_path / "chat", [record(n, words[0] + n * 7 % (words[1] - words[0])) for n in range(count)])
        entry = {"path": str(path), "task_name": "chat", "abs_weight": 1, "format": "chat", "template": "belle"}
        return place.write_mixture("chat", [entry | {"allow_repeat": repeats}])

    return make


def epochs_of(place, folder, **options):
    run = train_here(place, folder, **OPTIONS, **options)
    return run.metrics()[-1]["task_epochs"]["chat"], run


def length(place, folder, **options):
    """The iterations that a run would have."""
    return open_inputs(read_settings(place.words(folder, **OPTIONS, **options)), APP).settings.train_iters


@pytest.mark.parametrize("epochs", [1, 2.5])
def test_as_many_epochs_as_asked_for(place, tmp_path, conversations, epochs):
    mixture = conversations(40, True)
    read, _ = epochs_of(place, tmp_path / "run", dataset_config=mixture, num_train_epochs=epochs)
    assert read == pytest.approx(epochs, abs=0.05)


def test_data_that_is_read_once_is_read_to_its_end(place, tmp_path, conversations):
    mixture = conversations(40, False)
    read, run = epochs_of(place, tmp_path / "run", dataset_config=mixture, num_train_epochs=1)
    assert read == 1
    assert f"step 1 of {len(run.losses())} begins" in run.log
    half, _ = epochs_of(place, tmp_path / "half", dataset_config=mixture, num_train_epochs=0.5)
    assert half == pytest.approx(0.5, abs=0.1)


def test_more_epochs_than_may_be_read_are_refused(place, tmp_path, conversations):
    mixture = conversations(10, False)
    with pytest.raises(UserError, match="num_train_epochs 3, but the mixture may be read 1 times"):
        length(place, tmp_path, dataset_config=mixture, num_train_epochs=3)


@pytest.mark.parametrize(("repeats", "more"), [(True, 5), (False, 12)])
def test_what_is_not_packed_ahead_is_like_what_is(place, tmp_path, conversations, monkeypatch, repeats, more):
    """Of data that is read once the end is not missed: there may be some iterations too many, which are not made."""
    options = {"dataset_config": conversations(400, repeats), "num_train_epochs": 1}
    exact = length(place, tmp_path, **options)
    monkeypatch.setattr(dry_read, "MOST_PLACES", 128 * 40)
    assert exact - (5 if repeats else 0) <= length(place, tmp_path, **options) <= exact + more


def test_a_short_run_has_a_short_warm_up(place, tmp_path, conversations):
    options = OPTIONS | {"dataset_config": conversations(20, True), "num_train_epochs": 1, "warmup_iters": None}
    words = place.words(tmp_path, **options)
    settings = open_inputs(read_settings(words), APP).settings
    assert settings.warmup_iters == settings.train_iters // 10 < 20
    assert settings.source("warmup_iters") == "the default 20 is more than all iterations"
