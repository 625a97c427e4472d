"""What tools/inspect_index.py prints of an indexed dataset, as lines of text."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect.lengths import Lengths, token_bins
from fm9g.data.inspect.search import Hit
from fm9g.data.tokens.sample import TokenSample, meta_estimate
from fm9g.display import bars, printable, shorten
from fm9g.errors import UserError

_SHOWN_APART = {"nlines", "nbytes", "language", "length_distribute"}  # told by the lines above the other figures
_META_WIDTH = 200  # characters of a value of meta.json


def summary(dataset: IndexedDataset) -> list[str]:
    """Counts, language, and the figures of meta.json."""
    meta = dataset.meta
    lines = [
        f"{printable(str(dataset.path))}",
        f"  records   {len(dataset):,}",
        f"  bytes     {dataset.nbytes:,}",
        f"  language  {meta.get('language', 'not said') if meta else 'not said (there is no meta.json)'}",
    ]
    figures = {key: value for key, value in meta.items() if key not in _SHOWN_APART}
    width = max(map(len, figures), default=0)
    if figures:
        lines.append("meta.json")
    return lines + [f"  {printable(key):{width}}  {_figure(value)}" for key, value in figures.items()]


def _figure(value: Any) -> str:
    """A value of meta.json, a fraction rounded to four digits, or to a whole number where that has more."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return _value(value, _META_WIDTH)


def length_lines(lengths: Lengths, meta: dict[str, Any]) -> list[str]:
    """Shortest, mean and longest record, and the histograms."""
    lines = [
        f"lengths in bytes, newline included: mean {lengths.mean:,.1f}, shortest {lengths.shortest[0]:,} (record "
        f"{lengths.shortest[1]}), longest {lengths.longest[0]:,} (record {lengths.longest[1]})",
        *(f"  {line}" for line in bars(lengths.bins())),
    ]
    if tokens := token_bins(meta):
        lines += ["lengths in tokens, as meta.json estimates them", *(f"  {line}" for line in bars(tokens))]
    return lines


def resolve(dataset: IndexedDataset, number: int) -> int:
    """The record that `number` means, counted from the end where it is negative."""
    count = len(dataset)
    if not -count <= number < count:
        raise UserError(f"record {number}: {dataset.path} has records 0 to {count - 1} (-1 is the last)")
    return number % count


def record_lines(dataset: IndexedDataset, number: int, width: int | None) -> list[str]:
    """A record's place in the file, and its fields, each cut to `width` characters."""
    start, end = dataset.span(number)
    record = dataset.record(number)
    lines = [f"record {number} (line {number + 1}, bytes {start}-{end}, {end - start:,} bytes)"]
    return lines + [f"  {printable(key)}: {_value(value, width)}" for key, value in record.items()]


def _value(value: Any, width: int | None) -> str:
    """A field for display: a string with its length where it is cut, anything else as JSON."""
    if not isinstance(value, str):
        return shorten(json.dumps(value, ensure_ascii=False), width, backslash=False)
    if width is not None and len(value) > width:
        return f"({len(value):,} characters) {shorten(value, width)}"
    return shorten(value, None) if value else '""'


def hit_line(hit: Hit, text: str) -> str:
    """Where a search found the text, and what stands around it."""
    before = ("…" if hit.place > len(hit.before) else "") + printable(hit.before)
    rest = hit.length - hit.place - len(text) - len(hit.after)
    times = f", {hit.count} times" if hit.count > 1 else ""
    found = f"{before}>>{printable(text)}<<{printable(hit.after)}{'…' if rest else ''}"
    return f"record {hit.record}, {printable(hit.field)}, character {hit.place}{times}: {found}"


def token_lines(sample: TokenSample, meta: dict[str, Any]) -> list[str]:
    """Real tokens a record with their standard error, against the estimate of meta.json."""
    counted, error = len(sample.tokens), sample.standard_error
    if error == 0.0:
        of, doubt, total_doubt = f"all {counted:,} records", "", ""
    else:
        of = f"{counted:,} of {sample.records:,} records, evenly spread"
        doubt = " (standard error not known: one record)" if error is None else f" ± {error:,.2f} (standard error)"
        total_doubt = "" if error is None else f" ± {error * sample.records:,.0f}"
    middle, high, top = np.percentile(sample.tokens, [50, 90, 99])
    lines = [
        f"tokens ({of}; input and output, with BOS and EOS as far as the tokenizer has them)",
        f"  a record   {sample.mean:,.2f}{doubt}",
        f"  in all     {'' if error == 0.0 else 'about '}{sample.total:,.0f}{total_doubt}",
        f"  counted    median {middle:,.0f}, 90 % up to {high:,.0f}, 99 % up to {top:,.0f}, "
        f"longest {int(sample.tokens.max()):,}; {sample.bytes_per_token:.2f} bytes a token",
        f"  meta.json  {_compared(sample, meta_estimate(meta))}",
    ]
    lines += [f"  {'warning: ' if warns else ''}{said}" for warns, said in sample.survey.lines()]
    if sample.without_text:
        lines.append(
            f"  warning: {sample.without_text:,} of them have no text to learn in output, and count as 0 tokens"
        )
    return lines


def _compared(sample: TokenSample, estimate: float | None) -> str:
    if not estimate:
        return "has no estimate"
    difference = estimate / sample.mean - 1
    return f"estimates {estimate:,.2f} a record: {abs(difference):.1%} too {'many' if difference > 0 else 'few'}"
