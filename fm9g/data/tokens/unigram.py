"""A Unigram model of sentencepiece, whose ids are those of exact sums.

Such a model takes the cut of a text whose pieces' scores have the largest sum. Sentencepiece adds them up in float32:
far into a long text the sum is about -100,000, where float32 knows steps of 0.008 only, so that a worse cut may win;
and of pieces whose order does not matter (`==` `=` or `=` `==`) rounding decides which comes first. The tokenizers
library, which reads exported models, adds the same scores in float64, where the sums are exact, and of equal ones
keeps the cut that it met first. Here sentencepiece does the same, so that a model meets the ids that it was trained
with: it never adds up much, and such pieces are put in order.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from fm9g.data.tokens.sentencepiece_proto import NORMAL, USER_DEFINED, SentencePieceModel, for_normalized_text

_SPAN = 500  # characters; scores of -5 to -20 each, so the sum stays where a step of float32 is at most 0.0005


class UnigramEncoder:
    """Token ids of text, by the model of a `.model` file, which `processor` has loaded."""

    def __init__(self, path: Path, processor: sentencepiece.SentencePieceProcessor, model: SentencePieceModel):
        self._processor = processor
        self._normalized = sentencepiece.SentencePieceProcessor(model_proto=for_normalized_text(path.read_bytes()))
        self._known = {text for text in model.texts(NORMAL) if len(text) == 1}
        self._joined = {pair for piece in model.pieces for pair in itertools.pairwise(piece.text)}
        groups = _repeats(model)
        self._repeats = {id: (unit, len(model.pieces[id].text)) for unit, ids in groups.items() for id in ids}
        pairs = (pair for ids in groups.values() for pair in itertools.permutations(ids, 2))
        self._unordered = {(one, other) for one, other in pairs if self._repeats[one][1] > self._repeats[other][1]}

    def encode(self, text: str) -> list[int]:
        """The ids of the best cut of `text`; of those alike, the one whose repeated pieces come shortest first."""
        if len(text) <= _SPAN:
            return self._ordered(self._processor.encode(text))
        spans = self._spans(self._processor.normalize(text))
        return self._ordered([id for span in spans for id in self._normalized.encode(span)])

    def _spans(self, text: str) -> Iterator[str]:
        """`text` in parts that no piece, and no run of unknown characters, reaches out of."""
        start = 0
        while len(text) - start > _SPAN:
            places = range(start + _SPAN, len(text))
            end = next((n for n in places if self._may_cut(text[n - 1], text[n])), len(text))
            yield text[start:end]
            start = end
        yield text[start:]

    def _may_cut(self, before: str, after: str) -> bool:
        return before in self._known and after in self._known and (before, after) not in self._joined

    def _ordered(self, ids: list[int]) -> list[int]:
        """`ids`, where neighbours that repeat the same unit come by their lengths."""
        if self._unordered.isdisjoint(zip(ids, ids[1:], strict=False)):  # noqa: RUF007 - twice as fast
            return ids
        repeats = [self._repeats.get(id, ("", 0)) for id in ids]
        runs = itertools.groupby(zip(ids, repeats, strict=True), key=lambda item: item[1][0])
        return [id for _, run in runs for id, _ in sorted(run, key=lambda item: item[1][1])]


def _repeats(model: SentencePieceModel) -> dict[str, list[int]]:
    """{unit: ids} of the pieces that repeat a unit, or are it, where they are several: `=` and `==`."""
    found: dict[str, list[int]] = {}
    for id, piece in enumerate(model.pieces):
        if piece.kind in (NORMAL, USER_DEFINED) and (repeat := re.fullmatch(r"(.+?)\1*", piece.text, re.DOTALL)):
            found.setdefault(repeat[1], []).append(id)
    return {unit: ids for unit, ids in found.items() if len(ids) > 1}
