"""Where a run starts: defaults, what is refused, and what each setting does."""

import os
import shutil

import pytest
import torch

from fm9g.checkpoint.settings import StartSettings
from fm9g.data.stream import saved_stream
from fm9g.errors import UserError
from tests.settings.helpers import FROZEN, defaults, iterations, rates, refused, sees
from tests.support.runs_here import refused_early, train_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {
    "pretrained_model": "",
    "resume_ckpt": "",
    "only_load_model": None,
    "load_grad": None,
    "grad_ckpt_num": 160,
    "load_dataloader_ckpt": None,
    "parallel_load_datastate": 8,
    "resume_no_optimze": 0,
    "strict_state_dict": True,
}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_defaults():
    assert defaults(StartSettings) == DEFAULTS


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--pretrained_model", "a.pt", "--resume_ckpt", "5"], "give only one of them"),
        (["--resume_no_optimze", "-3"], "resume_no_optimze must be at least 0, not -3"),
        (["--parallel_load_datastate", "0"], "parallel_load_datastate must be at least 1"),
    ],
)
def test_values_that_no_run_can_have_are_refused(words, says):
    assert says in refused(*words)


@sees("pretrained_model", "load_grad")
def test_pretrained_model_starts_at_step_0_and_load_grad_takes_the_optimizer_along(plain, run):
    weights = plain.checkpoints / "3/fm9g_live_checkpoint-3.pt"
    frozen = run(pretrained_model=weights, **FROZEN, train_iters=2)
    assert iterations(frozen) == [1, 2]
    assert same(frozen.weights(2), plain.weights(3))
    steps = [run(pretrained_model=weights, load_grad=load, train_iters=2).optimizer(2) for load in (0, 1)]
    assert [state["lm_head.weight"]["step"] for state in steps] == [{2}, {5}]


def turn_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("named", ["3", "latest", ""])
def test_pretrained_model_may_be_a_folder(plain, run, named):
    """Of a checkpoint, or of a run, whose newest is taken: what was taken is what the run says of itself."""
    taken = 3 if named == "3" else plain.latest()
    begun = run(pretrained_model=plain.checkpoints / named, **FROZEN, train_iters=2)
    assert same(begun.weights(2), plain.weights(taken))
    weights = plain.checkpoints / f"{taken}/fm9g_live_checkpoint-{taken}.pt"
    assert begun.state(2)["settings"]["pretrained_model"] == str(weights)


def test_damaged_weights_of_a_checkpoint_are_no_start(place, own, run):
    folder = own.checkpoints / "3"
    weights = folder / "fm9g_live_checkpoint-3.pt"
    turn_a_bit(weights)
    for named in (weights, folder):
        with pytest.raises(UserError, match=r"checkpoint-3.pt is damaged: .*; take another .*files: 1, 2, 4\)"):
            run(pretrained_model=named, train_iters=2)
    shutil.copy(weights, own.root / "elsewhere.pt")
    run(pretrained_model=own.root / "elsewhere.pt", train_iters=2)  # of which nothing is known
    run(pretrained_model=folder, only_run_dataloader=1, train_iters=2)  # which are not read
    os.truncate(weights, 1000)
    assert "pretrained_model: " in (said := refused_early(place, own.root / "new", pretrained_model=folder, lr=1e-3))
    assert "has 1,000 bytes" in said
    assert run(pretrained_model=own.checkpoints / "2", train_iters=2).steps() == [2]


def test_the_optimizer_that_is_taken_along_is_compared_too(own, run):
    turn_a_bit(own.checkpoints / "3/optimizer-00000.pt")
    run(pretrained_model=own.checkpoints / "3", train_iters=2)
    with pytest.raises(UserError, match=r"optimizer-00000\.pt is damaged"):
        run(pretrained_model=own.checkpoints / "3", load_grad=1, train_iters=2)


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

    class Pool(saved_stream.ThreadPoolExecutor):
        def __init__(self, max_workers):
            workers.append(max_workers)
            super().__init__(max_workers)

    monkeypatch.setattr(saved_stream, "ThreadPoolExecutor", Pool)
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
