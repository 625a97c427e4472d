"""Strips: what stands in them of documents that are cut, of several sequences or with several ranges of targets."""

import pickle
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm9g.data.stream.document import Document, Sequence
from fm9g.data.stream.lane import Piece, Row
from fm9g.data.stream.strip import IGNORED, PADDING_TASK, make_strip, row_digest


def piece(record, tokens, first, last, first_target=1, task=0):
    sequence = Sequence(np.array(tokens), ((first_target, len(tokens)),))
    return Piece(task, Document(record, (sequence,), True), first, last)


def test_a_strip_holds_tokens_with_the_next_ones_as_targets():
    row = Row([piece(0, [1, 5, 6, 2], 0, 3), piece(1, [1, 7, 8, 9, 2], 0, 3, task=1)])
    strip = make_strip([row], 6)
    assert strip.tokens.tolist() == [1, 5, 6, 1, 7, 8]
    assert strip.targets.tolist() == [5, 6, 2, 7, 8, 9]
    assert (strip.lengths, strip.tasks) == ([3, 3], [0, 1])


def test_the_pieces_of_a_cut_document_share_the_token_between_them():
    tokens = [1, 5, 6, 7, 2]
    first, second = make_strip([Row([piece(0, tokens, 0, 2)])], 2), make_strip([Row([piece(0, tokens, 2, 4)])], 2)
    assert first.tokens.tolist() + second.tokens.tolist() == tokens[:-1]
    assert first.targets.tolist() + second.targets.tolist() == tokens[1:]


@pytest.mark.parametrize(
    ("first", "last", "targets"),
    [(0, 5, [IGNORED, IGNORED, 7, 8, 2]), (0, 2, [IGNORED, IGNORED]), (1, 3, [IGNORED, 7]), (3, 5, [8, 2])],
)
def test_the_input_carries_no_loss(first, last, targets):
    row = Row([piece(0, [1, 5, 6, 7, 8, 2], first, last, first_target=3)])
    assert make_strip([row], last - first).targets.tolist() == targets


def test_what_a_row_leaves_empty_is_padding_of_its_own():
    strip = make_strip([Row([piece(0, [1, 5, 2], 0, 2)]), Row()], 4)
    assert strip.lengths == [2, 2, 4]
    assert strip.tasks == [0, PADDING_TASK, PADDING_TASK]
    assert strip.sequences == [0, 0, 0]
    assert strip.tokens.tolist() == [1, 5, 0, 0, 0, 0, 0, 0]
    assert strip.targets.tolist() == [5, 2] + [IGNORED] * 6
    assert strip.tokens.dtype == strip.targets.dtype == torch.int32


def test_the_digest_of_a_row_is_over_task_record_and_tokens():
    pieces = [piece(4, [1, 5, 2], 0, 2, task=0), piece(9, [1, 5, 6, 2], 1, 3, task=1)]
    words = b"".join(
        name + b"".join(number.to_bytes(8, "little") for number in numbers)
        for name, numbers in ((b"a", (4, 0, 2)), (b"b", (9, 1, 3)))
    )
    assert row_digest(Row(pieces), ["a", "b"]) == sha256(words).digest()
    assert row_digest(Row(pieces[::-1]), ["a", "b"]) != sha256(words).digest()


def naive(rows, length):
    """(tokens, targets, lengths, parts, weights) of rows, token by token."""
    tokens, targets, lengths, parts, weights = [], [], [], [], []
    for row in rows:
        begun = len(tokens)
        for piece in row.pieces:
            several = len(piece.document.sequences) > 1
            for part, sequence in enumerate(piece.document.sequences):
                learned = {i for start, stop in sequence.targets for i in range(start, stop)}
                places = range(len(sequence.tokens) - 1) if several else range(piece.first, piece.last)
                for i in places:
                    tokens.append(int(sequence.tokens[i]))
                    targets.append(int(sequence.tokens[i + 1]) if i + 1 in learned else IGNORED)
                    weights.append(weight_of(sequence, i + 1) if i + 1 in learned else 0.0)
                lengths.append(len(places))
                parts.append(part)
        if padding := begun + length - len(tokens):
            tokens += [0] * padding
            targets += [IGNORED] * padding
            weights += [0.0] * padding
            lengths.append(padding)
            parts.append(0)
    return tokens, targets, lengths, parts, weights


def weight_of(sequence, token):
    return 1.0 if sequence.weights is None else float(sequence.weights[token])


def weights_of(strip):
    """A strip's weights, or those that None stands for."""
    return ((strip.targets != IGNORED).float() if strip.weights is None else strip.weights).tolist()


@st.composite
def sequences(draw, most=12):
    """A sequence of at least one place, some of whose tokens are learned; tokens tell where they are from."""
    size = draw(st.integers(2, most))
    bounds = sorted(draw(st.sets(st.integers(1, size), min_size=2, max_size=6)))
    ranges = tuple(zip(bounds[::2], bounds[1::2], strict=False))
    weights = draw(st.none() | st.lists(st.sampled_from([0.25, 1, 3]), min_size=size, max_size=size))
    weights = None if weights is None else np.array(weights, dtype=np.float32)
    return Sequence(np.array(draw(st.permutations(range(100, 100 + size))), dtype=np.int32), ranges, weights)


@given(st.lists(st.lists(sequences(), min_size=1, max_size=3), min_size=1, max_size=5), st.integers(36, 50))
def test_strips_are_what_a_token_by_token_reading_gives(documents, length):
    rows = [
        Row([Piece(0, (document := Document(i, tuple(found), False)), 0, document.places)])
        for i, found in enumerate(documents)
    ]
    strip = make_strip(rows, length)
    found = (strip.tokens.tolist(), strip.targets.tolist(), strip.lengths, strip.sequences, weights_of(strip))
    assert found == naive(rows, length)
    assert (strip.weights is None) == all(s.weights is None for of in documents for s in of)
    again = pickle.loads(pickle.dumps(strip))
    assert (again.tokens.tolist(), again.targets.tolist(), again.lengths, again.sequences, weights_of(again)) == found
    assert again.tasks == strip.tasks


@given(sequences(40), st.integers(1, 12))
def test_a_document_cut_anywhere_gives_each_target_once(sequence, length):
    """Cut at the ends of rows: its tokens in order, and each learned token as a target once."""
    document = Document(0, (sequence,), True)
    cuts = [*range(0, document.places, length), document.places]
    rows = [Row([Piece(0, document, first, last)]) for first, last in pairwise(cuts)]
    strip = make_strip(rows, length)
    assert strip.tokens[: document.places].tolist() == sequence.tokens[:-1].tolist()
    learned = [token for start, stop in sequence.targets for token in sequence.tokens[start:stop].tolist()]
    assert strip.targets[strip.targets != IGNORED].tolist() == learned
    assert strip.targets.tolist() == naive(rows, length)[1]
    assert weights_of(strip) == naive(rows, length)[4]
