"""Formats that a test adds, by a function and a line: from a mixture file to the strips that a model gets."""

import json
from itertools import pairwise

import pytest

from fm9g.data.example import Example, Part
from fm9g.data.record import NoText
from fm9g.data.stream.loader import Loader, Plan
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.stream.record_formats import RECORD_FORMATS, RecordFormat
from fm9g.data.stream.strip import IGNORED, PADDING_TASK
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.support.corpora import open_stream
from tests.support.places import index
from tests.support.runs_here import train_here

ROW = 40
STEPS = 400


@pytest.fixture
def read(tmp_path, place, monkeypatch):
    """[(sequence, tokens, targets) of each piece] of each row, and what was skipped, in a format of the test's own."""

    def rows(records, example, oversize_rule="segment"):
        monkeypatch.setitem(RECORD_FORMATS, "toy", RecordFormat(example))
        entry = {"path": str(index(tmp_path / "set", records)), "abs_weight": 1, "task_name": "toy", "format": "toy"}
        entry |= {"oversize_rule": oversize_rule, "allow_repeat": False}
        (tmp_path / "mixture.json").write_text(json.dumps([entry]))
        plan, entries = Plan(1, ROW, 1, 1), read_mixture(tmp_path / "mixture.json")
        loader = Loader(open_stream(plan, entries, place.tokenizer, range(STEPS)), 0, 1)
        batches = list(loader)
        assert loader.exhausted
        return [pieces_of(batch.strips[0]) for batch in batches], [why for batch in batches for _, why in batch.skipped]

    return rows


def pieces_of(strip):
    pieces, at = [], 0
    for length, task, sequence in zip(strip.lengths, strip.tasks, strip.sequences, strict=True):
        if task != PADDING_TASK:
            pieces.append((sequence, strip.tokens[at : at + length].tolist(), strip.targets[at : at + length].tolist()))
        at += length
    return pieces


def compared(number, record, reading):
    """Two answers to a question."""
    end = Part(reading.tokenizer.eos_id, True)
    question = Part(record["question"], False)
    return Example(number, tuple((question, Part(record[key], True), end) for key in ("better", "worse")))


@pytest.mark.parametrize("rule", ["segment", "head", "drop"])
def test_two_sequences_are_never_cut_and_share_a_row(read, place, rule):
    tokenizer = load_tokenizer(place.tokenizer)
    records = [
        {"question": f"question {i}?", "better": "one " * (i % 7 + 1), "worse": "two " * (1 + i % 3)} for i in range(30)
    ]
    records.append({"question": "q", "better": "a " * 50, "worse": "b"})
    rows, skipped = read(records, compared, rule)

    def half(record, key):
        question, answer = tokenizer.encode(record["question"]), tokenizer.encode(record[key])
        whole = [*question, *answer, tokenizer.eos_id]
        return whole[:-1], [IGNORED] * (len(question) - 1) + whole[len(question) :]

    documents = [(half(record, "better"), half(record, "worse")) for record in records]
    fitting = [halves for halves in documents if len(halves[0][0]) + len(halves[1][0]) <= ROW]
    found = []
    for row in rows:
        assert [part for part, _, _ in row] == [0, 1] * (len(row) // 2)
        found += [(row[i][1:], row[i + 1][1:]) for i in range(0, len(row), 2)]
    assert sorted(found) == sorted(fitting)
    assert 0 < len(skipped) == len(records) - len(fitting) < len(records)
    assert all(why.long and "of its 2 sequences exceed max_length 40" in why.reason for why in skipped)


def conversation(number, record, reading):
    """Turns of which every other one is learned, with its end."""
    end = reading.tokenizer.eos_id
    parts = [part for i, turn in enumerate(record["turns"]) for part in (Part(turn, i % 2 == 1), Part(end, i % 2 == 1))]
    return Example(number, (tuple(parts),), may_cut=True)


def test_several_turns_are_learned_wherever_a_row_ends(read, place):
    tokenizer = load_tokenizer(place.tokenizer)
    turns = ["first question", "an answer", "second one", "another answer that is longer"]
    records = [{"turns": [f"{turn} {i}" for turn in turns[: 2 + i % 3]]} for i in range(25)]
    rows, skipped = read(records, conversation)
    assert not skipped
    seen = [place for row in rows for _, tokens, targets in row for place in zip(tokens, targets, strict=True)]
    expected = []
    for record in records:
        whole = [([*tokenizer.encode(turn), tokenizer.eos_id], i % 2 == 1) for i, turn in enumerate(record["turns"])]
        learned = [(token, with_loss) for turn, with_loss in whole for token in turn]
        expected += [(token, target if loss else IGNORED) for (token, _), (target, loss) in pairwise(learned)]
    assert sorted(seen) == sorted(expected)
    assert sum(len(row) for row in rows) > len(records)  # some were cut


def test_an_example_that_learns_nothing_is_skipped(read):
    def half_learned(number, record, reading):
        return Example(number, ((Part(record["a"], True),), (Part(record["a"], False),)))

    rows, skipped = read([{"a": "text"}], half_learned)
    assert not any(rows)
    assert [why.reason for why in skipped] == ["there is nothing in it to learn"]


def asked(number, record, reading):
    """A question and its answer, of records that have one."""
    if "answer" not in record:
        raise NoText("no answer")
    return Example(number, ((Part(record["answer"], True),),))


@pytest.mark.usefixtures("single_rank")
def test_records_without_what_a_format_needs_are_refused_at_the_start_or_skipped(place, tmp_path, monkeypatch):
    monkeypatch.setitem(RECORD_FORMATS, "toy", RecordFormat(asked))
    index(tmp_path / "asked", [{"answer": "yes"}, {"text": "no"}, {"answer": "no"}])
    entry = {"path": str(tmp_path / "asked"), "abs_weight": 1, "task_name": "asked", "format": "toy"}
    with pytest.raises(UserError, match=r"dataset 'asked' .*record 1 \(line 2\): no answer; .* skip_unlearned: true"):
        train_here(place, tmp_path / "out", dataset_config=place.write_mixture("strict", [entry]))
    mixture = place.write_mixture("lenient", [{**entry, "skip_unlearned": True}])
    run = train_here(place, tmp_path / "out", dataset_config=mixture)
    assert "dataset 'asked': records are left out, record 1 (line 2): no answer" in run.log
    index(tmp_path / "unasked", [{"text": "no"}] * 3)
    mixture = place.write_mixture("none", [{**entry, "path": str(tmp_path / "unasked"), "skip_unlearned": True}])
    with pytest.raises(UserError, match=r"record 0 \(line 1\): no answer; none of 3 records that were looked at is"):
        train_here(place, tmp_path / "out", dataset_config=mixture)
    assert "texts in other fields" not in run.log  # which is of records that are read as text
