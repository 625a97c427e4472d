"""What is wrong with a user's input: one clear line, an exit status, and nothing of the user's lost."""

import json
import os
import shutil

import pytest
import torch

from fm9g.data.index.build import Options, build
from fm9g.data.stream.order import Generation, RecordOrder
from tests.support.apps import start_app
from tests.support.outputs import Output, copy_output
from tests.support.places import PROSE_RECORDS, SETTINGS, Place, index, prose_records, write_jsonl
from tests.support.processes import descendants, is_alive, wait_until
from tests.support.ranks import finish
from tests.support.runs_here import command_here, train_here

pytestmark = pytest.mark.usefixtures("single_rank")
_ROWS = 2  # of a step
# the record of prose that step 8 begins with: some steps are done and saved before it is met
LATE = RecordOrder([Generation(0, PROSE_RECORDS)], SETTINGS["seed"], "prose").record(8 * _ROWS)


@pytest.fixture
def own(place, tmp_path):
    """A copy of the place, to damage."""
    shutil.copytree(place.root, tmp_path / "own")
    return Place(tmp_path / "own")


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(place, output, **changes):
    """The one line that a user sees."""
    before = files(place.root)
    result = command_here(place.words(output, **changes))
    assert result.returncode == 1
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1, result.output
    assert files(place.root) == before
    return result.output


# datasets


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    def damage(folder):
        content = (folder / name).read_bytes()
        times = os.stat(folder / name)
        (folder / name).write_bytes(content[: len(content) // 2])
        os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))

    return damage


def make_data_newest(folder):
    os.utime(folder / "data.jsonl", ns=(2**62, 2**62))


def remove_both_indexes(folder):
    remove("index.h5")(folder)
    remove("index")(folder)


def take_the_index_of_another(folder):
    for name in ("index.h5", "index", "meta.json"):
        shutil.copy(folder.parent / "questions" / name, folder)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (remove("data.jsonl"), "not an indexed dataset, data.jsonl is missing; rebuild it with"),
        (remove_both_indexes, "index.h5 and index are both missing; rebuild it with"),
        (cut("index.h5"), "index.h5: cannot be read, it is cut short or damaged"),
        (cut("data.jsonl"), "one of them is cut short or belongs to another file"),
        (cut("meta.json"), "meta.json, line"),
        (take_the_index_of_another, "one of them is cut short or belongs to another file"),
        (make_data_newest, "data.jsonl is newer than its index, so it may have changed"),
    ],
)
def test_a_damaged_dataset_is_refused_before_anything_starts(own, tmp_path, damage, says):
    damage(own.root / "prose")
    message = refused(own, tmp_path / "out")
    assert str(own.root / "prose") in message
    assert says in message
    assert not (tmp_path / "out").exists()


def break_record(dataset, record):
    """Put another byte into a record, with the size and the times kept."""
    path = dataset / "data.jsonl"
    times, lines = path.stat(), path.read_bytes().splitlines(keepends=True)
    lines[record] = b"[" + lines[record][1:]
    path.write_bytes(b"".join(lines))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def alone(own):
    """A mixture of prose alone: [settings]."""
    entries = [{"path": "prose", "abs_weight": 1}]
    return {"dataset_config": own.write_mixture("alone", entries), "train_iters": 200, "save_iters": 5}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_malformed_record_met_in_training_is_located(own, alone, tmp_path, workers):
    break_record(own.root / "prose", LATE)
    message = refused(own, tmp_path / "out", **alone, dataloader_num_workers=workers)
    assert f"{own.root / 'prose/data.jsonl'}, record {LATE} (line {LATE + 1}), byte " in message
    assert "its bytes have changed since it was indexed" in message


def test_a_malformed_record_of_an_index_without_checksums_is_located(own, alone, tmp_path):
    build(own.root / "prose.jsonl", own.root / "prose", "en", Options(overwrite=True, checksums=False))
    break_record(own.root / "prose", LATE)
    message = refused(own, tmp_path / "out", **alone)
    assert f"{own.root / 'prose/data.jsonl'}, record {LATE} (line {LATE + 1}), byte " in message
    assert "not valid JSON" in message


def test_what_was_trained_before_a_malformed_record_is_kept(own, alone, tmp_path):
    break_record(own.root / "prose", LATE)
    refused(own, tmp_path / "out", **alone)
    output = Output(tmp_path / "out")
    done = len(output.metrics())
    assert done > 5
    assert output.latest() == done // 5 * 5
    mended = own.root / "prose/data.jsonl"
    mended.write_bytes(mended.read_bytes().replace(b'["input"', b'{"input"'))
    os.utime(mended, ns=(1, 1))
    again = train_here(own, output.root, **{**alone, "train_iters": done + 2}, resume_ckpt="latest")
    assert [line["iteration"] for line in again.metrics()] == list(range(1, done + 3))


def test_records_without_text_are_refused_unless_a_transform_makes_some(own, tmp_path):
    index(own.root / "fields", [{"text": record["output"]} for record in prose_records(30)])
    entry = {"path": "fields", "abs_weight": 1}
    message = refused(own, tmp_path / "out", dataset_config=own.write_mixture("m", [entry]))
    assert '30 of 30 records have no text to learn in "output", the first is record 0 (line 1)' in message
    assert "they are texts: python tools/prepare_data.py --format text --path X --output Y.jsonl reads them" in message
    (own.root / "t.py").write_text('def transform(data, n, r):\n    return {"input": "", "output": data["text"]}\n')
    train_here(own, tmp_path / "out", dataset_config=own.write_mixture("m", [{**entry, "transforms": "t.py"}]))


@pytest.mark.parametrize("counted", [True, False], ids=["by a builder of before", "without validation"])
def test_records_without_text_that_nobody_counted_are_looked_for(own, tmp_path, counted):
    records = [{"input": "only asked"} if i % 2 else {"output": f"{i} and said"} for i in range(40)]
    source = write_jsonl(tmp_path / "half.jsonl", records)
    build(source, tmp_path / "half", "en", Options(validate=counted))
    meta = json.loads((tmp_path / "half/meta.json").read_text())
    if counted:
        del meta["records_without_text"]
        (tmp_path / "half/meta.json").write_text(json.dumps(meta))
    else:
        assert meta["records_without_text"] is None
    entry = {"path": str(tmp_path / "half"), "abs_weight": 1}
    message = refused(own, tmp_path / "out", dataset_config=own.write_mixture("half", [entry]))
    assert "record 1 (line 2): no text to learn in \"output\" (its fields: 'input'); such records were not" in message
    skipping = own.write_mixture("skips", [{**entry, "skip_unlearned": True}])
    assert len(train_here(own, tmp_path / "out", dataset_config=skipping, train_iters=2).losses()) == 2


def test_a_dataset_that_is_not_read_may_have_no_text(own, tmp_path):
    index(own.root / "off", [{"text": record["output"]} for record in prose_records(30)])
    entries = [{"path": "prose", "abs_weight": 1}, {"path": "off", "abs_weight": 0}]
    run = train_here(own, tmp_path / "out", dataset_config=own.write_mixture("m", entries))
    assert "other fields than input and output" not in run.log


FAILS_LATE = """
def transform(data, num_sample, r):
    if data["output"].startswith("{late} "):
        {what}
    return data
"""


@pytest.fixture
def transformed(own, alone):
    """Settings of a run whose transform does something wrong with a record that is met late."""

    def write(what):
        (own.root / "t.py").write_text(FAILS_LATE.format(late=LATE, what=what))
        entries = [{"path": "prose", "abs_weight": 1, "transforms": "t.py"}]
        return {**alone, "dataset_config": own.write_mixture("transformed", entries)}

    return write


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("raise RuntimeError('no such word')", "the transform raised RuntimeError: no such word"),
        ("return 1 / 0", "the transform raised ZeroDivisionError: division by zero"),
        ("return None", 'the transform must return {"input": ..., "output": ...}, not None'),
        ('return {"input": "", "output": ["x"]}', "output must be a string, not ['x']"),
        ('return {"input": ""}', 'the transform must return {"input": ..., "output": ...}'),
    ],
)
def test_a_transform_that_fails_names_the_record(own, transformed, tmp_path, what, says):
    message = refused(own, tmp_path / "out", **transformed(what), dataloader_num_workers=2)
    assert message.startswith(
        f"error: dataset 'prose', record {LATE} (line {LATE + 1}) of {own.root / 'prose'}: {says}"
    )


def test_a_transform_that_fails_on_one_of_two_ranks_ends_both_and_says_so_once(own, transformed, tmp_path):
    settings = {**transformed("raise RuntimeError('no such word')"), "grad_accum": 1, "dataloader_num_workers": 1}
    words = own.words(tmp_path / "out", **settings, n_gpus=2)
    process = start_app(words, tmp_path)
    started = []
    wait_until(lambda: started.extend(descendants(process.pid)) or process.poll() is not None, "the end", 120)
    result = finish(process)
    assert result.returncode != 0
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    assert lines[0].startswith(f"error: dataset 'prose', record {LATE} (line {LATE + 1}) of ")
    wait_until(lambda: not any(map(is_alive, started)), "the end of both ranks", 60)
    output = Output(tmp_path / "out")
    done = len(output.metrics())
    assert output.latest() == done // 5 * 5 > 0
    (own.root / "t.py").write_text("def transform(data, num_sample, r):\n    return data\n")
    settings = {**settings, "train_iters": done + 1, "n_gpus": 1, "grad_accum": 2}
    assert "transforms was a program with the digest" in refused(own, output.root, **settings, resume_ckpt="latest")
    again = train_here(own, output.root, **settings, resume_ckpt="latest", accept_changed_data=1)
    assert again.latest() == done + 1


# mixture


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([{"path": "prose", "abs_weight": -1}], "abs_weight must be a number from 0 to 1e+15, not -1"),
        ([{"path": "prose", "abs_weight": 0}], "the weights sum to zero"),
        ([{"path": "prose", "abs_wait": 1}], "unknown key 'abs_wait' (did you mean 'abs_weight'?)"),
        ([{"path": "prose", "abs_weight": 1}] * 2, "entries 1 and 2 are all named 'prose'"),
        ([{"path": "nowhere", "abs_weight": 1}], "nowhere: no such folder (a dataset is a folder"),
        ([{"path": "prose", "abs_weight": 1, "transforms": "no.py"}], "no.py: no such transform file"),
        ([], "expected a list of datasets with at least one entry"),
    ],
)
def test_a_mixture_with_a_mistake(own, tmp_path, entries, says):
    assert says in refused(own, tmp_path / "out", dataset_config=own.write_mixture("wrong", entries))
    assert not (tmp_path / "out").exists()


def test_a_mixture_that_is_not_there(own, tmp_path):
    assert "nothing.json" in refused(own, tmp_path / "out", dataset_config=own.root / "nothing.json")


def test_a_mixture_that_disagrees_with_the_data_warns_and_trains(own, tmp_path):
    entries = [{"path": "prose", "abs_weight": 1, "nlines": 7}]
    run = train_here(own, tmp_path, dataset_config=own.write_mixture("seven", entries))
    assert "the mixture says nlines 7, its meta.json 120" in run.log
    assert run.latest() == 4


# model, tokenizer and weights


def test_a_tokenizer_beyond_the_models_vocabulary(own, tmp_path):
    message = refused(own, tmp_path / "out", config=own.write_model("small", vocab_size=280))
    assert "the tokenizer has 300 tokens, the model 280 (vocab_size of config " in message


def test_a_max_length_beyond_the_models(own, tmp_path):
    message = refused(own, tmp_path / "out", max_length=129)
    assert f"max_length 129 is beyond the 128 positions of {own.config}: lower it" in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dim_modell": 32}, "unknown key 'dim_modell' (did you mean 'dim_model'?)"),
        ({"num_layers": "2"}, "num_layers must be int, not '2'"),
        ({"num_kv_heads": 3}, "num_heads (2) is not a multiple of num_kv_heads (3)"),
    ],
)
def test_a_model_config_with_a_mistake(own, tmp_path, change, says):
    assert says in refused(own, tmp_path / "out", config=own.write_model("wrong", **change))


def test_pretrained_weights_of_another_shape(own, tmp_path):
    trained = train_here(own, tmp_path / "first", config=own.write_model("wide", dim_ff=96))
    weights = trained.checkpoints / "4/fm9g_live_checkpoint-4.pt"
    result = command_here(own.words(tmp_path / "out", pretrained_model=weights))
    assert result.returncode == 1
    first, second, *_ = result.output.splitlines()
    assert first == f"error: {weights} does not fit the model:"
    assert second == "  encoder.layers.0.ffn.ffn.w_in.w_0.weight: the file has [96, 32], the model [48, 32]"
    assert Output(tmp_path / "out").steps() == []


def test_pretrained_weights_that_are_not_there(own, tmp_path):
    assert refused(own, tmp_path / "out", pretrained_model="no.pt") == "error: pretrained_model: no.pt: no such file\n"


# where the run writes


@pytest.mark.parametrize("where", ["file/out", "/proc/out"])
def test_an_output_folder_that_cannot_be_written(own, tmp_path, where):
    (tmp_path / "file").write_text("a file in the way")
    assert "error: output_dir: cannot create " in refused(own, tmp_path / where)
    assert (tmp_path / "file").read_text() == "a file in the way"


def test_a_dry_run_says_that_an_output_folder_cannot_be_written(own, tmp_path):
    (tmp_path / "file").write_text("a file in the way")
    message = refused(own, tmp_path / "file/out", dry_run=1)
    assert message.startswith(f"error: output_dir: cannot write {tmp_path}/file/out/checkpoints/u: {tmp_path}/file is")


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory, single_rank):
    return train_here(place, tmp_path_factory.mktemp("finished"))


def test_a_run_does_not_write_over_another_one(place, finished):
    before = files(finished.checkpoints)
    message = refused(place, finished.root)
    assert "already holds checkpoints (the newest at step 4): continue with --resume_ckpt latest" in message
    assert files(finished.checkpoints).keys() == before.keys()
    assert len(finished.metrics()) == 4


def test_a_checkpoint_that_is_not_there(place, finished):
    assert "has no checkpoint of step 3 (it has: 4)" in refused(place, finished.root, resume_ckpt=3)


def test_a_checkpoint_whose_state_is_damaged(place, finished, tmp_path):
    output = copy_output(finished, tmp_path / "out")
    (output.checkpoints / "4/state.json").write_text("{")
    assert f"{output.checkpoints / '4/state.json'}, line 1" in refused(place, output.root, resume_ckpt=4)


def test_a_disk_that_fills_up_while_saving_leaves_the_former_checkpoint(place, finished, tmp_path, monkeypatch):
    output = copy_output(finished, tmp_path / "out")

    def save(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    assert "No space left on device" in refused(place, output.root, resume_ckpt=4, train_iters=5)
    monkeypatch.undo()
    assert (output.steps(), output.latest()) == ([4], 4)
    assert train_here(place, output.root, resume_ckpt="latest", train_iters=5).latest() == 5


def test_training_that_diverges_says_where_and_keeps_the_checkpoint(place, tmp_path):
    message = refused(
        place, tmp_path, lr=1e30, clip_grad=0, save_iters=1, warmup_iters=0, train_iters=50, max_bad_steps=1
    )
    assert (
        "training has diverged. The weights were not updated, and nothing is saved; resume the last checkpoint"
        in message
    )
    assert json.loads(message.split("iteration ")[1].split(":")[0]) == Output(tmp_path).latest() + 1
