"""Random mixtures, killed and resumed on random numbers of ranks: the same rows; nothing lost, nothing twice."""

import collections
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fm9g.data.stream import loader
from fm9g.data.stream.continuation import rearrange_states
from fm9g.data.stream.loader import LANES_PER_ROW, Plan
from fm9g.data.stream.mixture import MixtureEntry
from tests.support.corpora import open_stream
from tests.support.places import index

ROW, ROWS = 48, 4  # tokens a row, rows a step
STEPS = 40
NO_FIXTURE_CHECK = settings(
    max_examples=settings().max_examples * 15 // 100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Folders of datasets of all shapes."""
    r, folder = random.Random(1), tmp_path_factory.mktemp("sets")

    def texts(count, least, most, prompt=False):
        words = [
            [" ".join(r.choices(["the", "tiny", "model", "月光"], k=r.randint(least, most)))] for _ in range(count)
        ]
        return [{"input": f"{i} of these?" if prompt else "", "output": f"{i} {w[0]}"} for i, w in enumerate(words)]

    shapes = {
        "one": texts(1, 5, 5),
        "few": texts(3, 3, 12),
        "short": texts(150, 0, 6),
        "long": texts(20, 1, 300) + texts(20, 1, 8),
        "questions": texts(120, 1, 25, prompt=True),
        "gaps": [record if i % 3 else {"input": "", "output": ""} for i, record in enumerate(texts(60, 1, 30))],
    }
    return {name: index(folder / name, records) for name, records in shapes.items()}


@st.composite
def mixtures(draw, repeat):
    """[MixtureEntry] of one to four of the datasets; the paths are filled in by the test."""
    names = draw(st.lists(st.sampled_from(["one", "few", "short", "long", "questions", "gaps"]), min_size=1, max_size=4,
                          unique=True))  # fmt: skip
    weights = draw(st.lists(st.integers(1, 100), min_size=len(names), max_size=len(names)))
    entries = []
    for name, weight in zip(names, weights, strict=True):
        rule = draw(st.sampled_from(["segment", "head", "drop"])) if repeat else "segment"
        epochs = draw(st.sampled_from([None, None, 0.5, 1.5, 3.0])) if repeat else 1.0
        entries.append(MixtureEntry(name, name, weight / sum(weights), None, True, rule, epochs, {}))
    return entries


lives = st.lists(st.tuples(st.integers(1, 15), st.sampled_from([1, 2, 4])), min_size=1, max_size=6)


class Run:
    """A run's rows of pieces (task, record, first, last), through lives on different numbers of ranks."""

    def __init__(self, place, entries, seed):
        self.place, self.entries, self.seed = place, entries, seed
        self.states, self.step, self.rows = {}, 0, []

    def live(self, steps, ranks):
        plans = [Plan(self.seed, ROW, ROWS // ranks, 1, rank, ranks) for rank in range(ranks)]
        span = range(self.step, self.step + steps)
        streams = [open_stream(plan, self.entries, self.place.tokenizer, span, self.states) for plan in plans]
        for step in range(span.start, span.stop + 3):
            batches = [stream.step(step) for stream in streams]
            if step >= span.stop:  # prefetched, and never consumed
                continue
            for plan, batch in zip(plans, batches, strict=True):
                self.states.update(zip(plan.lanes_of_step(step), batch.lane_states, strict=True))
                self.rows += pieces_of(batch.row_digests)
        self.step = span.stop


def shown(row, names):
    """In the place of a row's digest: its pieces, to be looked at."""
    pieces = [f"{names[p.task]},{p.document.record},{p.first},{p.last},{p.document.places}" for p in row.pieces]
    return (";".join(pieces) + "\n").encode()


def pieces_of(digests):
    lines = digests.decode().split("\n")[:-1]
    return [[tuple(piece.split(",")) for piece in line.split(";") if piece] for line in lines]


@NO_FIXTURE_CHECK
@given(entries=mixtures(repeat=True), seed=st.integers(0, 1000), lives=lives)
def test_ranks_and_kills_change_nothing(place, datasets, monkeypatch, entries, seed, lives):
    monkeypatch.setattr(loader, "row_digest", shown)
    entries = [replace(entry, path=datasets[entry.task_name]) for entry in entries]
    whole = Run(place, entries, seed)
    whole.live(sum(steps for steps, _ in lives), 1)
    parts = Run(place, entries, seed)
    for steps, ranks in lives:
        parts.live(steps, ranks)
    assert parts.rows == whole.rows
    assume(any(whole.rows))  # such an example shows something; where too many do not, hypothesis says so


@NO_FIXTURE_CHECK
@given(entries=mixtures(repeat=False), seed=st.integers(0, 1000), lives=lives, data=st.data())
def test_changed_weights_lose_and_repeat_nothing(place, datasets, monkeypatch, entries, seed, lives, data):
    """One epoch of each dataset, its weights changed with each life: the pieces of each record are all of it, once."""
    monkeypatch.setattr(loader, "row_digest", shown)
    run = Run(place, [replace(entry, path=datasets[entry.task_name]) for entry in entries], seed)
    for steps, ranks in lives:
        run.live(steps, ranks)
        before = [{"name": s.task_name, "share": s.share, "epochs": s.epochs, "fingerprint": ""} for s in run.entries]
        shares = [data.draw(st.integers(1, 100)) for _ in entries]
        order = data.draw(st.permutations(range(len(entries))))
        run.entries = [replace(run.entries[old], share=shares[old] / sum(shares)) for old in order]
        run.states = rearrange_states(run.states, before, [(s.task_name, s.share, s.epochs, "") for s in run.entries])
    while any(run.rows[-LANES_PER_ROW * ROWS :]):
        run.live(STEPS, 1)
    pieces, pairs = collections.defaultdict(list), {}
    for row in run.rows:
        for task, record, first, last, size in row:
            pieces[task, int(record)].append((int(first), int(last)))
            pairs[task, int(record)] = int(size)
    for key, spans in pieces.items():
        spans.sort()
        assert [first for first, _ in spans] == [0, *(last for _, last in spans[:-1])], key
        assert spans[-1][1] == pairs[key], key
    counts = collections.Counter(task for task, _ in pieces)
    for entry in run.entries:
        assert counts[entry.task_name] == (40 if entry.task_name == "gaps" else count_lines(entry.path))


def count_lines(folder):
    return (folder / "data.jsonl").read_bytes().count(b"\n")
