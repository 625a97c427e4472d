"""Rows of embedding and head for tokens that a model's tokenizer is given besides: the mean of those that their text
had before, which the model already reads and writes for it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from fm9g.convert.tokenizer.files import training_reads
from fm9g.data.tokens.tokenizer import HuggingFaceTokenizer, Tokenizer, load_tokenizer
from fm9g.errors import UserError, shown
from fm9g.tensors.lazy import DTYPES, LazyTensor, as_dtype, rows_per_piece


class NewRows(NamedTuple):
    """`parts`: {new token: the tokens whose rows' mean is its row}; `size`: the rows of the table then."""

    parts: Mapping[int, list[int]]
    size: int


def new_rows(old: Tokenizer, new: Tokenizer, rows: int) -> NewRows:
    """The rows that `new` needs and `old`, the tokenizer of a model with so many rows, does not give.

    Rows beyond the old tokenizer's ids are no token's (published models have such), so new tokens take them first.
    UserError where `old` cannot be the model's, or `new` is not `old` and more.
    """
    if old.vocab_size > rows:
        raise UserError(f"{old.path}: has {old.vocab_size} ids, the model {rows} rows: it is not its tokenizer")
    check_keeps(old, new)
    added = {id: text for id, text in sorted(new.spellings.items()) if id not in old.spellings}
    if not added:
        raise UserError(f"{new.path}: adds no token to {old.path}: there is nothing to make rows for")
    if nothing := next((id for id in range(rows, new.vocab_size) if id not in added), None):
        raise UserError(f"{new.path}: has no token {nothing}, but larger ones: there is nothing to make that row of")
    return NewRows({id: _parts(old, new, id) for id in added}, max(rows, new.vocab_size))


def check_is_of(old: Tokenizer, folder: Path) -> None:
    """UserError where the tokenizer in a model's folder, if there is one, spells an id of `old` otherwise."""
    if not training_reads(folder):
        return
    own = load_tokenizer(folder)
    for id, text in sorted(old.spellings.items()):
        if own.spellings.get(id, text) != text:
            raise UserError(
                f"{old.path}: id {id} is {shown(text, 40)}, but {shown(own.spellings[id], 40)} in {own.path}, the "
                "model's tokenizer: give that"
            )


def check_keeps(old: Tokenizer, new: Tokenizer) -> None:
    """UserError, with the first id that differs, unless each token of `old` is the same in `new`."""
    for id, text in sorted(old.spellings.items()):
        if new.spellings.get(id) != text:
            found = shown(new.spellings[id], 40) if id in new.spellings else "nothing"
            raise UserError(
                f"{new.path}: id {id} is {found}, but {shown(text, 40)} in {old.path}: make it with "
                "tools/merge_tokenizers.py, which keeps every id"
            )


def _parts(old: Tokenizer, new: Tokenizer, id: int) -> list[int]:
    """The tokens of the old tokenizer for the text of a new one's."""
    text = new.spell(id)
    is_text = isinstance(new, HuggingFaceTokenizer) and id in new.added  # as it is written, not in letters of pieces
    parts = old.encode(text) if is_text else old.cut(text)
    if not parts:
        raise UserError(f"{old.path}: gives no token for {shown(text, 40)}, token {id} of {new.path}")
    return parts


def resized(name: str, weight: LazyTensor, rows: NewRows, dtype: str | None = None) -> LazyTensor:
    """The table `weight` [rows, …] in `dtype` (None: its own) with new rows, read a few megabytes at a time.

    The other rows keep their bits. A mean is taken in float32 of the rows as they are, and rounded once.
    """
    kept, inner = as_dtype(name, weight, dtype), weight.shape[1:]
    assert kept.read_rows is not None
    assert weight.read_rows is not None
    read, source, width = kept.read_rows, weight.read_rows, math.prod(inner)
    new = sorted(rows.parts)

    def mean(id: int) -> torch.Tensor:
        parts = torch.stack([source(part, part + 1).float() for part in rows.parts[id]])
        return parts.mean(0).to(DTYPES[kept.dtype].torch)

    def read_rows(start: int, stop: int) -> torch.Tensor:
        table = torch.empty(stop - start, width, dtype=DTYPES[kept.dtype].torch)
        if start < weight.shape[0]:
            old = read(start, min(stop, weight.shape[0])).view(-1, width)
            table[: len(old)] = old
        for id in new[bisect_left(new, start) : bisect_left(new, stop)]:
            table[id - start] = mean(id)
        return table.view(-1)

    shape = (rows.size, *inner)

    def pieces() -> Iterator[torch.Tensor]:
        step = rows_per_piece(shape, DTYPES[kept.dtype].itemsize)
        for start in range(0, rows.size, step):
            yield read_rows(start, min(start + step, rows.size))

    return LazyTensor(kept.dtype, shape, pieces, read_rows)
