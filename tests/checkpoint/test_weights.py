"""Weights that are loaded: what does not fit, what cannot be right, and that a file of them runs no code."""

import os

import pytest
import torch

from fm9g.training.learner import Diverged
from tests.support.outputs import Output
from tests.support.runs_here import refused_here, training_here

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture
def weights_file(trained, tmp_path):
    """A .pt of the trained weights with changes."""

    def write(change):
        weights = trained.weights(3)
        change(weights)
        torch.save(weights, tmp_path / "w.pt")
        return tmp_path / "w.pt"

    return write


def test_keys_that_do_not_fit_are_listed(place, tmp_path, weights_file):
    def change(weights):
        weights["lm_heads.weight"] = weights.pop("lm_head.weight")

    message = refused_here(place, tmp_path / "o", pretrained_model=weights_file(change))
    assert f"{tmp_path / 'w.pt'} does not fit the model (strict_state_dict=0 loads the rest):" in message
    assert "\n  missing lm_head.weight [320, 32]\n  unexpected lm_heads.weight [320, 32]" in message


def test_keys_that_do_not_fit_can_be_left_out(place, tmp_path, weights_file, trained):
    def change(weights):
        weights["extra"] = weights.pop("lm_head.weight")

    with training_here(
        place, tmp_path / "o", pretrained_model=weights_file(change), strict_state_dict=0, lr=0, weight_decay=0
    ) as run:
        head = run.learner.model.lm_head.weight.detach().clone()
        embedding = run.learner.model.input_embedding.weight.detach().clone()
    assert torch.equal(embedding.view(320, 32), trained.weights(3)["input_embedding.weight"])
    assert not torch.equal(head.view(320, 32), trained.weights(3)["lm_head.weight"])


@pytest.mark.parametrize("strict", [0, 1])
def test_a_misshapen_weight_is_refused_however_strict(place, tmp_path, weights_file, strict):
    def change(weights):
        weights["lm_head.weight"] = weights["lm_head.weight"][:300].clone()

    message = refused_here(place, tmp_path / "o", pretrained_model=weights_file(change), strict_state_dict=strict)
    assert "lm_head.weight: the file has [300, 32], the model [320, 32]" in message


def test_a_long_list_is_cut(place, tmp_path, weights_file):
    message = refused_here(place, tmp_path / "o", pretrained_model=weights_file(lambda weights: weights.clear()))
    assert message.count("\n  missing") == 20
    assert message.endswith("\n  and 1 more")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_file_that_is_no_checkpoint_is_named(place, tmp_path, weights_file, damage):
    path = weights_file(lambda weights: None)
    contents = {"truncated": path.read_bytes()[:5000], "text": b"not a checkpoint", "empty": b""}
    path.write_bytes(contents[damage])
    assert refused_here(place, tmp_path / "o", pretrained_model=path).startswith(f"{path}: not a readable checkpoint")


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({"model": {"lm_head.weight": torch.zeros(2)}, "step": 3}, "but 'model' is a dict"),
        (torch.zeros(2), "found a Tensor"),
        (["a"], "found a list"),
    ],
)
def test_a_file_of_something_else_than_weights_is_refused(place, tmp_path, contents, says):
    torch.save(contents, tmp_path / "w.pt")
    message = refused_here(place, tmp_path / "o", pretrained_model=tmp_path / "w.pt")
    assert message.startswith(f"{tmp_path / 'w.pt'}: expected tensors by name, ")
    assert message.endswith(says)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_runs_no_code(place, tmp_path):
    torch.save({"lm_head.weight": Payload(tmp_path / "pwned")}, tmp_path / "w.pt")
    message = refused_here(place, tmp_path / "o", pretrained_model=tmp_path / "w.pt")
    assert message.startswith(f"{tmp_path / 'w.pt'}: not a checkpoint of tensors alone, or damaged; code in a file is")
    assert not (tmp_path / "pwned").exists()


# weights that cannot be right


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weight: (weight * 100).to(torch.int64), "dtype int64 (weights are float32, float16 or bfloat16)"),
        (lambda weight: weight.bool(), "dtype bool (weights are float32, float16 or bfloat16)"),
        (lambda weight: weight.to(torch.complex64), "dtype complex64 (weights are float32, float16 or bfloat16)"),
        (lambda weight: weight.double(), "dtype float64 (convert it to float32 first)"),
        (lambda weight: weight.to(torch.float8_e4m3fn), "dtype float8_e4m3fn (of a quantized checkpoint: save it"),
        (lambda weight: weight.to(torch.int8), "dtype int8 (of a quantized checkpoint: save it"),
        (lambda weight: weight.to_sparse(), "lm_head.weight is a sparse tensor: weights are plain tensors of floats"),
        (lambda weight: weight.to("meta"), "lm_head.weight is a meta tensor, which has no values"),
    ],
    ids=["int64", "bool", "complex", "double", "float8", "int8", "sparse", "meta"],
)
@pytest.mark.parametrize("strict", [0, 1])
def test_weights_of_another_format_are_refused_by_name(place, tmp_path, weights_file, change, says, strict):
    path = weights_file(lambda weights: weights.update({"lm_head.weight": change(weights["lm_head.weight"])}))
    message = refused_here(place, tmp_path / "o", pretrained_model=path, strict_state_dict=strict)
    assert message.startswith(f"{path}")
    assert "lm_head.weight" in message
    assert says in message


@pytest.mark.parametrize(
    ("dtype", "value", "says"),
    [
        ("float32", float("nan"), "NaN"),
        ("bf16", float("-inf"), "infinite values"),
        ("fp16", 65520.0, "values beyond the range of float16"),
    ],
)
def test_weights_that_are_not_finite_in_the_models_dtype_are_refused_by_name(
    place, tmp_path, weights_file, dtype, value, says
):
    def change(weights):
        weights["input_embedding.weight"][-1, 3] = value  # of a token that no text has

    path = weights_file(change)
    message = refused_here(place, tmp_path / "o", pretrained_model=path, config=place.write_model(dtype, dtype=dtype))
    assert message.startswith(f"{path}: input_embedding.weight has {says}: no weights to train from")


def test_weights_that_round_into_the_range_are_taken(place, tmp_path, weights_file):
    path = weights_file(lambda weights: weights["input_embedding.weight"][-1].fill_(65519.0))
    with training_here(place, tmp_path, pretrained_model=path, config=place.write_model("half", dtype="fp16")) as run:
        assert run.learner.model.input_embedding.weight.detach().max() == 65504


def test_weights_that_are_no_longer_finite_are_not_saved(place, tmp_path):
    with training_here(place, tmp_path) as run:
        dict(run.learner.model.named_parameters())["input_embedding.weight"].data[-1] = float("nan")
        with pytest.raises(Diverged, match=r"input_embedding\.weight has NaN: training has diverged, and nothing is"):
            run.checkpoints.save(run.stream.progress.step, run.contents)
    assert Output(tmp_path).steps() == []
