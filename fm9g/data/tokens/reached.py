"""Which new pieces a byte pair encoding reaches when they are merged after everything that it merges already.

New merges come last, so that a text is first cut as it was, and only then are neighbouring tokens joined. Hence

* a text that holds no new piece keeps its ids, and any other text's new cut joins tokens of its old one, tearing none;
* a piece that is two tokens by then becomes one by the merge of these two, and stays reached whatever comes later;
* a piece that is three or more has no such merge (the domain's own would not do: here its words are cut at other
  places), unless another new piece joins some of them first. Where none does, steps are added: what its first two
  tokens are together, and so on, as merges of a BPE always leave some behind that are seldom seen.

(Chinese-LLaMA gives new pieces the best of all scores instead: they are merged before the base's own, out of letters,
and tear words that the base has tokens for.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

Key = Callable[[str, str], object]  # what a merge of two neighbours is known by


def joined(left: str, right: str) -> str:
    """The key of sentencepiece, where any two pieces merge whose union is one."""
    return left + right


def pair(left: str, right: str) -> tuple[str, str]:
    """The key of a list of merges."""
    return left, right


class Merges:
    """The merges of a vocabulary, which grow at their end; `ranks`: those that there are, the best with the lowest."""

    def __init__(self, ranks: Mapping[object, float], vocabulary: Iterable[str], key: Key):
        self._ranks, self._last = dict(ranks), max(ranks.values(), default=0.0)
        self._vocabulary, self._key = set(vocabulary), key

    def cut(self, text: str) -> list[str]:
        """The tokens of a word: the best merge first, the leftmost of those alike."""
        parts = list(text)
        while len(parts) > 1:
            ranks = [self._ranks.get(self._key(*two)) for two in zip(parts, parts[1:], strict=False)]  # noqa: RUF007
            found = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
            if not found:
                break
            _, place = min(found)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return parts

    def add(self, pieces: Sequence[str]) -> dict[str, list[str]]:
        """{piece: the two tokens that it is merged from, itself where it is one character} of those that are reached
        and the steps to them, in the order of their merges.

        Left out are pieces with a character that is no token, or with a step that is one, but is never merged.
        """
        made = {piece: [piece] for piece in pieces if len(piece) == 1}
        self._vocabulary.update(made)
        waiting = [piece for piece in pieces if len(piece) > 1]
        while True:
            left = [piece for piece in waiting if not self._reach(piece, made)]
            if len(left) == len(waiting):
                break
            waiting = left
        for piece in (one for one in waiting if self._vocabulary.issuperset(self.cut(one))):
            while not self._reach(piece, made) and self._reach("".join(self.cut(piece)[:2]), made):
                pass
        return made

    def _reach(self, piece: str, made: dict[str, list[str]]) -> bool:
        parts = self.cut(piece)
        if len(parts) != 2 or piece in self._vocabulary or not self._vocabulary.issuperset(parts):
            return False
        self._last += 1
        self._ranks[self._key(*parts)] = self._last
        self._vocabulary.add(piece)
        made[piece] = parts
        return True
