"""The data: defaults, what is refused, and what each setting does."""

import os
import re
import shutil

import pytest

from fm9g.data.stream.settings import DataSettings
from fm9g.errors import UserError
from fm9g.training import run_stream
from fm9g.training.inputs import mixture_path, open_inputs
from fm9g.training.settings import Settings, read_settings
from tests.settings.helpers import defaults, refused, sees
from tests.support.outputs import Output
from tests.support.places import index
from tests.support.runs_here import APP, train_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {
    "tokenizer_path": "./tokenizer/tokenizer.model",
    "dataset_config": "data_test",
    "max_length": 4096,
    "dataloader": "indexed",
    "dataloader_num_workers": 1,
    "dataloader_num_threads": 1,
    "dataloader_prefetch": 1,
    "dataloader_prefetch_factor": 1,
    "max_train_samples": None,
    "stop_when_end": False,
    "max_damaged_share": 0.001,
    "only_run_dataloader": False,
    "accept_changed_data": False,
}


def test_defaults():
    assert defaults(DataSettings) == DEFAULTS


@sees("max_train_samples")
def test_the_first_records_are_trained_on_alone(place, tmp_path):
    inputs = open_inputs(read_settings(place.words(tmp_path, max_train_samples=7)), APP)
    for corpus in inputs.corpora:
        assert {corpus.record(position) for position in range(100)} == set(range(7))
    run = train_here(place, tmp_path, max_train_samples=7)
    assert all(epochs > 1 for epochs in run.metrics()[-1]["task_epochs"].values())


@sees("dataloader")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dataloader", "normal"], "dataloader 'normal' does not exist: the only one is 'indexed'"),
        (["--max_damaged_share", "-1"], "max_damaged_share must be at least 0 and at most 1, not -1"),
        (["--max_length", "0"], "max_length must be at least 1"),
        (["--dataloader_num_workers", "-1"], "dataloader_num_workers must be at least 0, not -1"),
        (["--dataloader_prefetch_factor", "0"], "dataloader_prefetch_factor must be at least 1"),
    ],
)
def test_values_that_no_run_can_have_are_refused(words, says):
    assert says in refused(*words)


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
    assert mixture_path(Settings(), place.root, "data_test").parts[-2:] == ("dataset_config", "data_test.json")


@sees("dataloader_num_workers", "dataloader_num_threads", "dataloader_prefetch", "dataloader_prefetch_factor")
def test_the_loader_is_made_as_asked_for(place, plain, run, monkeypatch):
    made = {}

    class NotedPrefetcher(run_stream.Prefetcher):
        def __init__(self, threads, depth):
            made.update(threads=threads, depth=depth)
            super().__init__(threads, depth)

    class Loader(run_stream.Loader):
        def __init__(self, steps, workers, prefetch):
            made.update(workers=workers, prefetch=prefetch)
            super().__init__(steps, workers, prefetch)

    monkeypatch.setattr(run_stream, "Prefetcher", NotedPrefetcher)
    monkeypatch.setattr(run_stream, "Loader", Loader)
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
