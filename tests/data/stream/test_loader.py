"""The loader: the same rows whatever the workers and ranks, states of what was consumed, and errors."""

import json
import multiprocessing
import os
import signal
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from fm9g.data.stream.loader import STREAM_RULES, Loader, Plan
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.strip import IGNORED, PADDING_TASK
from fm9g.errors import UserError
from tests.support.corpora import open_stream
from tests.support.places import index

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
ROW, ROWS = 32, 4
LAYOUTS = {1: (2, 2), 2: (1, 2), 4: (1, 1)}  # ranks: (batch_size, grad_accum), ROWS rows a step


def make_loader(
    place, steps, workers=0, rank=0, ranks=1, states=None, prefetch=2, mixture=None, seed=3, tokenizer=None, threads=1
):
    plan = Plan(seed, ROW, *LAYOUTS[ranks], rank, ranks)
    entries = read_mixture(mixture or place.mixture)
    prefetcher = Prefetcher(threads, 1)
    stream = open_stream(plan, entries, tokenizer or place.tokenizer, steps, dict(states or {}), prefetcher)
    return Loader(stream, workers, prefetch)


def rows_of(batches, ranks):
    """[step][row] of (digest, tokens, targets), rows in the order of the run; `batches` holds each rank's steps."""
    batch_size, grad_accum = LAYOUTS[ranks]
    steps = []
    for step_batches in zip(*batches, strict=True):
        found = {}
        for rank, batch in enumerate(step_batches):
            for micro, strip in enumerate(batch.strips):
                for i in range(batch_size):
                    digest = batch.row_digests[32 * (micro * batch_size + i) :][:32]
                    part = slice(i * ROW, (i + 1) * ROW)
                    row = (digest, tuple(strip.tokens[part].tolist()), tuple(strip.targets[part].tolist()))
                    found[(micro * ranks + rank) * batch_size + i] = row
        assert len(found) == ROWS == ranks * batch_size * grad_accum
        steps.append([found[k] for k in range(ROWS)])
    return steps


def read(place, steps, workers=0, ranks=1, states=None, **options):
    loaders = [make_loader(place, steps, workers, rank, ranks, states, **options) for rank in range(ranks)]
    return rows_of([list(loader) for loader in loaders], ranks)


def states_of(*loaders):
    """{lane: state} of what the loaders have handed out."""
    parts = [loader.state_dict() for loader in loaders]
    return {
        int(lane): tuple(state.tolist())
        for part in parts
        for lane, state in zip(part["lanes"], part["states"], strict=True)
    }


def as_arrays(states):
    return {lane: np.array(state) for lane, state in states.items()}


@pytest.fixture(scope="module")
def expected(place):
    """40 steps of one rank without workers."""
    return read(place, range(40))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(place, expected, workers):
    assert read(place, range(20), workers) == expected[:20]


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("workers", [0, 16])  # each of 16 has the same lanes at all its steps
def test_threads_change_nothing(place, expected, workers, threads):
    assert read(place, range(40), workers, threads=threads) == expected


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_change_nothing(place, expected, ranks, workers):
    assert read(place, range(20), workers, ranks) == expected[:20]


def test_nothing_of_a_worker_lies_in_shared_memory(place):
    held = [batch for batch, _ in zip(make_loader(place, range(9), workers=2), range(5), strict=False)]
    assert [strip.tokens.dtype for batch in held for strip in batch.strips] == [torch.int32] * 10
    assert "/torch_" not in Path("/proc/self/maps").read_text()


def test_the_seed_changes_the_rows(place, expected):
    assert read(place, range(2), seed=4) != expected[:2]


@pytest.fixture
def bytes_as_tokens(tmp_path):
    """A tokenizer that no version of a library can change: each byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate([*alphabet, "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return tmp_path


def test_the_rules_of_a_stream_are_known_by_their_number(place, bytes_as_tokens):
    steps = read(place, range(40), tokenizer=bytes_as_tokens)
    digest = sha256(b"".join(row[0] for step in steps for row in step)).hexdigest()
    known = {5: "da3c072864985dea03dc126a566392e8e8d27b23c5b896d6b9f0f271833264e3"}
    assert known.get(STREAM_RULES) == digest, "the rows are others than before: give STREAM_RULES a new number"


def test_a_lane_is_read_once_in_sixteen_steps_by_one_rank():
    for ranks, layout in LAYOUTS.items():
        plans = [Plan(0, ROW, *layout, rank, ranks) for rank in range(ranks)]
        for first in (0, 16):
            lanes = [lane for plan in plans for step in range(first, first + 16) for lane in plan.lanes_of_step(step)]
            assert sorted(lanes) == list(range(16 * ROWS))
        assert sorted(lane for plan in plans for lane in plan.lanes_of_rank()) == list(range(16 * ROWS))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_is_what_was_handed_out_and_not_what_was_prefetched(place, workers):
    plain, loader = make_loader(place, range(40)), make_loader(place, range(40), workers, prefetch=4)
    steps = []
    for _, batch, _ in zip(range(18), loader, plain, strict=False):
        assert states_of(loader) == states_of(plain)
        steps.append(batch.step)
    assert steps == list(range(18))


@pytest.mark.parametrize("consumed", [0, 1, 7, 15, 16, 17, 30])
def test_any_step_can_be_resumed_on_any_number_of_ranks(place, expected, consumed):
    loaders = [make_loader(place, range(40), rank=rank, ranks=2) for rank in range(2)]
    for loader in loaders:
        for _ in zip(range(consumed), loader, strict=False):
            pass
    states = as_arrays(states_of(*loaders))
    for ranks in LAYOUTS:
        assert read(place, range(consumed, 40), ranks=ranks, states=states) == expected[consumed:]


@pytest.mark.parametrize("consumed", [3, 18])
def test_a_resume_with_workers_continues_too(place, expected, consumed):
    loader = make_loader(place, range(40), workers=2)
    iterator = iter(loader)
    for _ in range(consumed):
        next(iterator)
    states = as_arrays(states_of(loader))
    assert read(place, range(consumed, consumed + 9), workers=4, states=states) == expected[consumed : consumed + 9]


def test_a_resumed_loader_hands_on_the_states_of_lanes_that_it_did_not_read(place):
    loader = make_loader(place, range(40))
    for _ in zip(range(20), loader, strict=False):
        pass
    again = make_loader(place, range(20, 40), states=as_arrays(states_of(loader)))
    assert states_of(again) == states_of(loader)
    next(iter(again))
    next(iter(loader))  # begins anew: a loader is gone through once
    assert set(states_of(again)) == set(range(16 * ROWS))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generator_alone(place, workers):
    """A resumed run has just restored it, for dropout to go on where it was."""
    before = torch.get_rng_state()
    next(iter(make_loader(place, range(3), workers)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("wanted", "used"), [(0, 0), (1, 1), (3, 2), (4, 4), (7, 4), (100, 16)])
def test_the_workers_divide_the_steps_after_which_a_lane_comes_again(place, wanted, used):
    assert make_loader(place, range(1), workers=wanted).workers == used


@pytest.fixture
def one_record(tmp_path):
    """A mixture of one dataset of one record."""
    folder = index(tmp_path / "one", [{"input": "", "output": "there is no more than this"}])
    (tmp_path / "one.json").write_text(json.dumps([{"path": str(folder), "abs_weight": 1, "task_name": "one"}]))
    return tmp_path / "one.json"


def test_one_document_feeds_eight_ranks(place, one_record):
    entries = read_mixture(one_record)
    for rank in range(8):
        plan = Plan(3, ROW, 1, 1, rank, 8)
        stream = open_stream(plan, entries, place.tokenizer, range(20), prefetcher=Prefetcher(1, 1))
        assert [sum(batch.tokens) for batch in Loader(stream, 0, 1)] == [ROW] * 20


def test_reading_changes_nothing_in_the_folders_of_the_data(place, one_record):
    """So a file system that cannot be written will do."""
    folder = one_record.parent / "one"
    before = {path: os.stat(path) for path in [folder, *folder.iterdir()]}
    read(place, range(20), workers=2, mixture=one_record)
    after = {path: os.stat(path) for path in [folder, *folder.iterdir()]}
    assert before.keys() == after.keys()
    assert all((after[path].st_mtime_ns, after[path].st_ino) == (before[path].st_mtime_ns, before[path].st_ino)
               for path in before)  # fmt: skip


def test_counts_of_a_step(place):
    batch = next(iter(make_loader(place, range(1))))
    pieces = [pair for strip in batch.strips for pair in zip(strip.lengths, strip.tasks, strict=True)]
    filled = sum(length for length, task in pieces if task != PADDING_TASK)
    assert sum(batch.tokens) == filled <= ROWS * ROW
    assert len(batch.documents) == len(batch.tokens) == 2
    assert sum(batch.documents) >= ROWS


@pytest.fixture
def finite(place, tmp_path):
    """A mixture of 21 short documents and 5 questions that does not repeat."""
    index(tmp_path / "few", [{"input": "", "output": f"text number {i}"} for i in range(21)])
    index(tmp_path / "asked", [{"input": f"{i}?", "output": "yes"} for i in range(5)])
    entries = [("few", 1), ("asked", 3)]
    path = tmp_path / "finite.json"
    text = ", ".join(
        f'{{"path": "{name}", "task_name": "{name}", "abs_weight": {weight}, "allow_repeat": false}}'
        for name, weight in entries
    )
    path.write_text(f"[{text}]")
    return path


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_exhausted_mixture_gives_every_document_once_and_then_empty_rows(place, finite, ranks, workers):
    documents, exhausted_at = np.zeros(2, dtype=int), []
    for rank in range(ranks):
        loader = make_loader(place, range(32), workers, rank, ranks, mixture=finite)
        assert not loader.exhausted
        seen = None
        for batch in loader:
            documents += batch.documents
            if loader.exhausted and seen is None:
                seen = batch.step
        exhausted_at.append(seen)
        assert sum(batch.tokens) == 0  # the last one
        assert set(batch.strips[0].tasks) == {PADDING_TASK}
        assert (batch.strips[0].targets == IGNORED).all()
    assert documents.tolist() == [21, 5]
    assert all(step is not None and step < 16 for step in exhausted_at)


def test_an_exhausted_mixture_is_known_right_after_a_resume(place, finite):
    loader = make_loader(place, range(40), mixture=finite)
    for _ in zip(range(20), loader, strict=False):
        pass
    again = make_loader(place, range(20, 40), states=as_arrays(states_of(loader)), mixture=finite)
    assert again.exhausted


@pytest.fixture
def damaged(place, tmp_path):
    """A mixture whose dataset has records without text."""
    index(tmp_path / "broken", [{"text": "x"}] * 3)
    path = tmp_path / "broken.json"
    path.write_text('[{"path": "broken", "task_name": "broken", "abs_weight": 1}]')
    return path


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_user_error_comes_clean_out_of_a_worker(place, damaged, workers):
    with pytest.raises(UserError) as error:
        next(iter(make_loader(place, range(5), workers, mixture=damaged)))
    assert str(error.value).startswith("dataset 'broken': 10000 records in a row")
    assert "\n" not in str(error.value)


def test_a_killed_worker_is_reported(place):
    before = set(multiprocessing.active_children())
    batches = iter(make_loader(place, range(10_000), workers=2, prefetch=1))
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    killed = workers.pop().pid

    def read_on():
        os.kill(killed, signal.SIGKILL)  # torch may raise it from its signal handler, at any moment from here on
        for _ in batches:
            pass

    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid(\(s\))? {killed}\)"):
        read_on()
