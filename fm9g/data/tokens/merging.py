"""The pieces of a domain's tokenizer added to a base's: every id of the base stays what it is, new ones come after.

How new pieces are used is decided by the base's kind.

* BPE (sentencepiece's, with the best score first, or a list of merges): fm9g/data/tokens/reached.py.
* Unigram, whose cut has the largest sum of scores: a new piece has a little more than the best cut of its text by the
  pieces before it, so that it takes the place of those tokens, and of no better cut across its ends. Its score may be
  the lowest, from which sentencepiece takes that of an unknown character: nothing changes where each character of a
  piece is a piece, too, as in what it trains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fm9g.data.tokens.pieces import (
    BLANKS,
    BYTES,
    Pieces,
    bpe_content,
    kept_whole,
    pieces_of,
    sentencepieces,
    text_of,
)
from fm9g.data.tokens.reached import Merges, joined, pair
from fm9g.data.tokens.sentencepiece_proto import NORMAL, UNIGRAM, USER_DEFINED, Piece, SentencePieceModel, with_pieces
from fm9g.data.tokens.special import Vocabulary
from fm9g.errors import UserError

_ABOVE = 2.0**-5  # what a new piece of a Unigram has more: far above float32's steps of a sum, far below a real choice
_UNKNOWN_PENALTY = 10.0  # of sentencepiece


class Merged(NamedTuple):
    """`content` of the merged tokenizer.model or tokenizer.json; the domain's pieces that are new, then the steps to
    them, in the order of their ids; and what was not taken: pieces that the base has, entries that are none, pieces
    that no text of the base's holds, and those that no merge makes."""

    content: bytes | dict[str, Any]
    new: list[str]
    steps: list[str]
    had: int
    others: int
    never: list[str]
    unreached: list[str]


class _Base(NamedTuple):
    """`entries`: all spellings; `apart`: what is found in a text before anything else."""

    entries: set[str]
    apart: list[str]


def merge(base: Path, domain: Path) -> Merged:
    """The tokenizer in the file `base` with the pieces of the one in `domain`; UserError for two that do not fit, or
    where nothing is new."""
    mine, theirs = pieces_of(base), pieces_of(domain)
    if mine.letters != theirs.letters:
        raise UserError(
            f"{base} has pieces {mine.letters}, {domain} {theirs.letters}: they cannot be merged; train the domain's "
            f"tokenizer as {'sentencepiece does' if mine.letters == BLANKS else 'tools/train_tokenizer.py does'}"
        )
    content = bpe_content(base) if base.suffix == ".json" else sentencepieces(base)
    known = _base_of(content)
    wanted = [text for text in theirs.texts if text not in known.entries]
    spelled = [text for text in wanted if mine.letters != BYTES or set(text) <= known.entries]  # no row for other bytes
    held = kept_whole(base, _outside(spelled, known.apart, mine.letters), mine.letters)
    merged, made = _json(content, held) if isinstance(content, dict) else _model(base, content, held)
    new = [text for text in wanted if text in made]
    if not new:
        raise UserError(f"{domain}: adds nothing to {base}: {_why(theirs, wanted, held)}")
    never, unreached = set(wanted) - set(held), set(held) - set(made)
    return Merged(
        merged,
        new,
        made[len(new) :],
        len(theirs.texts) - len(wanted),
        theirs.others,
        [text for text in wanted if text in never],
        [text for text in wanted if text in unreached],
    )


def _base_of(content: dict[str, Any] | SentencePieceModel) -> _Base:
    if isinstance(content, SentencePieceModel):
        return _Base({piece.text for piece in content.pieces}, content.texts(USER_DEFINED))
    vocabulary = Vocabulary.of(content)
    return _Base(set(vocabulary.spellings.values()), [token["content"] for token in vocabulary.added.values()])


def _outside(pieces: Sequence[str], apart: Sequence[str], letters: str) -> list[str]:
    """Those of `pieces` whose text holds nothing of what is found apart from them."""
    if not apart:
        return list(pieces)
    found = re.compile("|".join(map(re.escape, apart)))
    return [piece for piece in pieces if not found.search(piece) and not found.search(text_of(piece, letters) or "")]


def _why(theirs: Pieces, wanted: Sequence[str], held: Sequence[str]) -> str:
    if not wanted:
        return f"it has each of its {len(theirs.texts)} pieces"
    return f"of {len(wanted)} new pieces its text holds {len(held)}, and no merge of two tokens makes one"


def _model(path: Path, model: SentencePieceModel, wanted: Sequence[str]) -> tuple[bytes, list[str]]:
    """A `.model` file with those of `wanted` that are reached and the steps to them, and these."""
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    if model.algorithm == UNIGRAM:
        found = _unigram_scores(scores, wanted)
    else:
        ranks: dict[object, float] = {text: -score for text, score in scores.items()}
        found = _falling(min(scores.values(), default=0.0), Merges(ranks, scores, joined).add(wanted))
    made = _in_order(wanted, found)
    return with_pieces(path.read_bytes(), [Piece(text, found[text], NORMAL) for text in made]), made


def _in_order(wanted: Sequence[str], made: Mapping[str, object]) -> list[str]:
    """What was made: those that were wanted in their order, then the steps to them."""
    asked = set(wanted)
    return [*(text for text in wanted if text in made), *(text for text in made if text not in asked)]


def _falling(lowest: float, pieces: Mapping[str, object]) -> dict[str, float]:
    """Scores below `lowest`, each below that before it; at a billion float32 knows every 64th number only."""
    score, found = np.float32(lowest), {}
    for text in pieces:
        score = min(np.float32(score - 1), np.nextafter(score, np.float32(-np.inf)))
        found[text] = float(score)
    return found


def _unigram_scores(scores: Mapping[str, float], wanted: Sequence[str]) -> dict[str, float]:
    """Scores of new pieces, shorter ones first: of one character the lowest, which is above an unknown one's."""
    known, lowest = dict(scores), min(scores.values(), default=0.0)
    longest = max(map(len, (*scores, *wanted)), default=0)
    for text in sorted(wanted, key=len):
        best = _best(text, known, lowest - _UNKNOWN_PENALTY, longest) + _ABOVE
        known[text] = lowest if len(text) == 1 else float(np.float32(best))
    return {text: known[text] for text in wanted}


def _best(text: str, scores: Mapping[str, float], unknown: float, longest: int) -> float:
    """The largest sum of scores of a cut of `text`."""
    sums = [0.0]
    for end in range(1, len(text) + 1):
        starts = range(max(0, end - longest), end)
        found = [sums[start] + scores[text[start:end]] for start in starts if text[start:end] in scores]
        sums.append(max(found, default=sums[-1] + unknown))
    return sums[-1]


def _json(content: dict[str, Any], wanted: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """A tokenizer.json with those of `wanted` that are reached and the steps to them, and these.

    Added tokens that only stand beside the vocabulary go into it, too: the library counts their ids on from its size,
    which grows.
    """
    vocabulary, model = Vocabulary.of(content), content["model"]
    vocab, merges = dict(model["vocab"]), list(model["merges"])
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    ranks: dict[object, float] = {two: float(rank) for rank, two in enumerate(pairs)}
    reached = Merges(ranks, vocab, pair).add(wanted)
    made = _in_order(wanted, reached)
    vocab |= {token["content"]: id for id, token in vocabulary.added.items()}
    first = max(vocabulary.spellings, default=-1) + 1
    vocab |= {text: first + place for place, text in enumerate(made)}
    spelled = bool(merges) and not isinstance(merges[0], str)
    new = [two for two in reached.values() if len(two) == 2]
    merges += [list(two) if spelled else " ".join(two) for two in new]
    return {**content, "model": {**model, "vocab": vocab, "merges": merges}}, made
