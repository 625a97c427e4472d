"""How many tokens a dataset really has, from a sample of its records.

The sample is spread evenly over the dataset. Tokens go with bytes, and the bytes of every record are known, so what is
estimated is the ratio of tokens to bytes: with b and t the bytes and tokens of n of N records,

    R = sum t / sum b,    tokens a record = R * B / N,    B all bytes of the dataset
    standard error of it = sqrt((1 - n/N) / n * sum (t - R b)^2 / (n - 1))

(Cochran, Sampling Techniques, ch. 6). It is far smaller than that of a plain mean where lengths differ much, and 0 when
all records were counted. It is the error of chance: it assumes that the order of the records is unrelated to n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fm9g.commandline import command
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.record import NoText, plain_text
from fm9g.data.tokens.survey import Survey
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressCallback, no_progress


@dataclass(frozen=True)
class TokenSample:
    """`tokens` [n] int64 of the sampled records, BOS and EOS included; figures are tokens a record of the dataset."""

    records: int  # of the dataset, N
    tokens: np.ndarray
    mean: float
    standard_error: float | None  # None where one record of several was counted: it does not tell how they differ
    bytes_per_token: float
    without_text: int  # sampled records that have nothing to learn: they count as 0 tokens
    survey: Survey  # what became of the sampled texts

    @property
    def total(self) -> float:
        """Tokens of the whole dataset."""
        return self.mean * self.records


def sample_tokens(
    dataset: IndexedDataset, tokenizer: Tokenizer, size: int, progress: ProgressCallback = no_progress
) -> TokenSample:
    """Tokenize `input` and `output` of `size` records (or of all) as training does where there is no transform."""
    if size < 1:
        raise UserError(f"sample must be at least 1, not {size}")
    numbers = spread(len(dataset), size)
    spans = [dataset.span(number) for number in numbers]
    total, done = sum(end - start for start, end in spans), 0
    tokens, nbytes, survey = [], [], Survey(tokenizer)
    extra = 1 if tokenizer.bos_id is None else 2  # EOS, and BOS where there is one
    for number, (start, end) in zip(numbers, spans, strict=True):
        texts = _texts(dataset, number)
        ids = tokenizer.encode_all(texts)
        for text, its_ids in zip(texts, ids, strict=True):
            survey.add(text, its_ids)
        tokens.append(sum(map(len, ids)) + extra if texts else 0)
        nbytes.append(end - start)
        done += end - start
        progress(done, total)
    if not any(tokens):
        raise UserError(
            f"{dataset.path}: none of {len(numbers)} sampled records has text to learn in output, so their tokens "
            f"depend on the transform of the mixture: {command('preview')} shows them"
        )
    counted = np.array(tokens)
    mean, error = estimate(counted, np.array(nbytes), len(dataset), dataset.nbytes)
    without_text = int((counted == 0).sum())
    return TokenSample(len(dataset), counted, mean, error, sum(nbytes) / sum(tokens), without_text, survey)


def _texts(dataset: IndexedDataset, number: int) -> list[str]:
    """The texts of a record, [] where it has nothing to learn: training skips it."""
    try:
        return [text for text in plain_text(dataset.record(number)) if text]
    except NoText:
        return []


def spread(length: int, count: int) -> list[int]:
    """`count` numbers (all where there are fewer) of [0, length), each from the middle of an equal part."""
    if count >= length:
        return list(range(length))
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def estimate(tokens: np.ndarray, nbytes: np.ndarray, records: int, all_bytes: int) -> tuple[float, float | None]:
    """(R B / N, its standard error) from `tokens` [n] and `nbytes` [n] of a sample of `records` with `all_bytes`.

    The error is None where one record of several was counted.
    """
    sampled, ratio = len(tokens), int(tokens.sum()) / int(nbytes.sum())
    error: float | None = None
    if sampled == records:
        error = 0.0
    elif sampled > 1:
        variance = float(np.square(tokens - ratio * nbytes).sum()) / (sampled - 1)
        error = math.sqrt((1 - sampled / records) / sampled * variance)
    return ratio * all_bytes / records, error


def meta_estimate(meta: dict[str, Any]) -> float | None:
    """`avg_token_per_line` of meta.json, None where an old folder has none."""
    value = meta.get("avg_token_per_line")
    return float(value) if isinstance(value, (int, float)) else None
