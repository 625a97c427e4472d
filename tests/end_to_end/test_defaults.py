"""What a run says of its start, in the dry run and when it begins."""

import io
import json
import shutil

import pytest
import sentencepiece
import transformers

from fm9g.convert.tokenizer.of_weights import note_origin
from fm9g.data.tokens.tokenizer import load_tokenizer
from tests.support.places import index
from tests.support.runs_here import command_here, train_here
from tests.support.tiny_tokenizers import sentence_pieces


@pytest.fixture(scope="module")
def own(tmp_path_factory, place):
    """A place whose files may be changed."""
    root = tmp_path_factory.mktemp("own") / "place"
    shutil.copytree(place.root, root)
    return type(place)(root)


@pytest.fixture(scope="module")
def weights(own, single_rank, tmp_path_factory):
    """A .pt of weights that lies alone."""
    output = tmp_path_factory.mktemp("first")
    train_here(own, output, train_iters=1, warmup_iters=0)
    target = own.root / "weights.pt"
    shutil.copyfile(output / "checkpoints/u/1/fm9g_live_checkpoint-1.pt", target)
    return target


def dry_run(place, output, **changes):
    result = command_here(place.words(output, dry_run=1, **changes))
    assert result.returncode == 0, result.output
    return result.output


def warnings(report):
    return [line for line in report.splitlines() if line.startswith("warning: ")]


def test_the_dry_run_tells_start_schedule_and_sources(own, weights, tmp_path):
    report = dry_run(own, tmp_path, max_length=None, batch_size=None, pretrained_model=weights, save_iters=2)
    assert f"start        step 0 with the weights of {weights}" in report
    assert "optimizer    peak lr 0.003 after 2 iterations of warm-up, then cosine to 0.0003 at 4" in report
    assert "2 rows x 128 = 256 tokens" in report  # all positions of the model
    assert "the model has 128 positions, default 4,096: max_length 128" in report
    assert "default: batch_size 1" in report
    assert warnings(report) == []
    assert "start        step 0 with new weights" in dry_run(own, tmp_path)
    flat = dry_run(own, tmp_path, lr_scheduler="warmupstabledrop", train_iters=100, drop_iters=0.2)
    assert "warmupstabledrop: flat, and falling from 80 on (20 drop_iters)" in flat


def test_a_learning_rate_that_nobody_chose_is_told(own, tmp_path):
    assert any("nobody chose lr: 0.01" in said for said in warnings(dry_run(own, tmp_path, lr=None)))


def test_pretrained_weights_without_a_learning_rate_are_refused(own, weights, tmp_path):
    result = command_here(own.words(tmp_path, lr=None, pretrained_model=weights))
    assert result.returncode == 1
    assert "lr is not set" in result.output
    assert not list(tmp_path.iterdir())


def test_hundreds_of_epochs_are_told(own, tmp_path):
    index(own.root / "small", [{"input": "", "output": "a few words"}] * 3)
    mixture = own.write_mixture("small", [{"path": "small", "abs_weight": 1}, {"path": "prose", "abs_weight": 1}])
    (said,) = warnings(dry_run(own, tmp_path, dataset_config=mixture, train_iters=400, save_iters=100))
    assert "dataset 'small' is read about" in said
    once = own.write_mixture("once", [{"path": "small", "abs_weight": 1, "allow_repeat": False}])
    report = dry_run(own, tmp_path, dataset_config=once, train_iters=400, save_iters=100)
    assert not any("is read about" in said for said in warnings(report))


def test_a_tokenizer_far_smaller_than_the_vocabulary_is_told(own, tmp_path):
    config = own.write_model("wide", vocab_size=30_000)
    (said,) = warnings(dry_run(own, tmp_path, config=config, save_iters=2))
    assert "the tokenizer has 300 tokens and the model 30,000" in said


def test_another_tokenizer_than_the_weights_came_with_is_told(own, weights, tmp_path):
    note_origin(weights, own.tokenizer)
    assert warnings(dry_run(own, tmp_path, pretrained_model=weights, save_iters=2)) == []
    other = tmp_path / "other"
    shutil.copytree(own.tokenizer, other)
    content = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(content, indent=3))  # another file, the same tokenizer
    assert warnings(dry_run(own, tmp_path, pretrained_model=weights, tokenizer_path=other, save_iters=2)) == []
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    options = {"tokenizer_path": other, "save_iters": 2}
    (said,) = warnings(dry_run(own, tmp_path, pretrained_model=weights, **options))
    assert f"{other} is not the tokenizer that the weights of {weights} came with" in said
    assert warnings(dry_run(own, tmp_path, **options)) == []  # new weights came with none


def test_the_weights_of_a_checkpoint_know_their_tokenizer(own, single_rank, tmp_path):
    run = train_here(own, tmp_path / "a", train_iters=1, warmup_iters=0)
    weights = run.checkpoints / "1/fm9g_live_checkpoint-1.pt"
    state = json.loads((weights.parent / "state.json").read_text())
    assert warnings(dry_run(own, tmp_path / "b", pretrained_model=weights, save_iters=2)) == []
    state["stream"]["vocabulary"] = "another"
    (weights.parent / "state.json").write_text(json.dumps(state))
    run.take_as_written(1)
    (said,) = warnings(dry_run(own, tmp_path / "b", pretrained_model=weights, save_iters=2))
    assert "is not the tokenizer that the weights" in said


def test_text_that_does_not_survive_the_tokenizer_is_told(own, tmp_path):
    model = io.BytesIO()
    texts = iter(["a few plain words", "words and a few more words"] * 20)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts, model_writer=model, vocab_size=24, model_type="bpe", minloglevel=2
    )
    path = tmp_path / "lossy.model"
    path.write_bytes(model.getvalue())
    index(own.root / "lines", [{"input": "", "output": f"a few\nwords 月 {i}"} for i in range(20)])
    mixture = own.write_mixture("lines", [{"path": "lines", "abs_weight": 1}])
    config = own.write_model("narrow", vocab_size=load_tokenizer(path).vocab_size)
    options = {"config": config, "dataset_config": mixture, "train_iters": 2, "save_iters": 2}
    unknown, lost = warnings(dry_run(own, tmp_path / "out", tokenizer_path=path, **options))
    assert "dataset 'lines': " in unknown
    assert "of its tokens are unknown (UNK)" in unknown
    assert "20 of 20 texts do not survive the tokenizer" in lost
    assert "newline (20 of 20)" in lost


def test_a_tokenizer_that_cannot_be_exported_is_told_before_a_run_and_not_after_it(own, tmp_path):
    folder = sentence_pieces(tmp_path / "suffix", treat_whitespace_as_suffix=True)
    config = own.write_model("as_suffix", vocab_size=load_tokenizer(folder).vocab_size)
    report = dry_run(own, tmp_path / "out", tokenizer_path=folder, config=config, save_iters=2)
    (said,) = (said for said in warnings(report) if "could not be converted to Hugging Face" in said)
    assert said.endswith("it puts the space after a word (treat_whitespace_as_suffix)")


def test_a_tokenizer_whose_export_would_have_other_ids_is_told(own, tmp_path):
    folder = tmp_path / "dropout"
    shutil.copytree(own.tokenizer, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5  # merges are left out by chance
    (folder / "tokenizer.json").write_text(json.dumps(content))
    report = dry_run(own, tmp_path / "out", tokenizer_path=folder, save_iters=2)
    (said,) = (said for said in warnings(report) if "could not be converted to Hugging Face" in said)
    assert "the exported tokenizer is not the one trained with" in said


def test_an_architecture_that_takes_no_such_tokenizer_is_told(own, tmp_path):
    """Beside a Qwen2 model transformers 5 makes its own Qwen2Tokenizer, 4 what tokenizer_config.json asks for."""
    forced = int(transformers.__version__.partition(".")[0]) >= 5
    config = own.write_model("biased", qkv_bias=True)
    report = dry_run(own, tmp_path / "out", config=config, save_iters=2)
    said = [said for said in warnings(report) if "could not be converted to Hugging Face" in said]
    assert len(said) == forced
    assert all("For model_type 'qwen2' it makes a Qwen2Tokenizer of any tokenizer.json" in one for one in said)


def test_a_real_start_tells_it_too(own, weights, tmp_path):
    run = train_here(own, tmp_path, pretrained_model=weights, train_iters=2, save_iters=9)
    assert f"starting from step 0 with the weights of {weights}" in run.log
    assert "command line: " in run.log
    assert "lr 0.003" in run.log
    assert "warning: save_iters 9 is beyond train_iters 2" in run.log


@pytest.mark.usefixtures("single_rank")
def test_a_shape_that_no_architecture_has_is_told_before_it_is_trained(own, tmp_path):
    config = own.write_model("ungated", ffn_gated=False)
    run = train_here(own, tmp_path, config=config, train_iters=2, save_iters=9)
    assert "warning: the trained model could not be converted to Hugging Face: config " in run.log
    assert "no architecture of Hugging Face is a LLaMA with ffn_gated, and nothing else" in run.log


def test_one_command_begins_from_pretrained_weights_and_restarts(own, weights, tmp_path):
    options = {
        "pretrained_model": weights,
        "resume_ckpt": "latest",
        "save_iters": 1,
        "lr_scheduler": "warmupstabledrop",
        "drop_iters": 1,
    }
    whole = train_here(own, tmp_path / "whole", **options, train_iters=3, drop_begin=9)
    train_here(own, tmp_path / "cut", **options, train_iters=2, drop_begin=9)
    again = train_here(own, tmp_path / "cut", **options, train_iters=3, drop_begin=9)
    assert f"starting from {tmp_path}/cut/checkpoints/u/2" in again.log
    assert "train_iters is 3 (command line), it was 2" in again.log
    assert again.losses() == whole.losses()
    assert len(whole.losses()) == 3
    fresh = train_here(own, tmp_path / "fresh", train_iters=1, warmup_iters=0)
    assert fresh.losses()[0] != whole.losses()[0]  # the weights were loaded
