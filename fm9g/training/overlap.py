"""Records that are held out for an evaluation and trained on too, of which its loss would tell too much."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fm9g.data.index.shared import Part, Shared, SharedRecords, has_checksums
from fm9g.data.record import record_name
from fm9g.data.stream.corpus import Corpus
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressBar
from fm9g.training.inputs import Inputs

COMPARED_AT_START = 1 << 27  # records, 1.6 GB of indexes: seconds
_NAMED = 3
_ADVICE = "take them out of one of the two, or say --allow_overlap 1"


def check_overlap(inputs: Inputs, most: int | None) -> list[str]:
    """Refuse records of eval_dataset that are trained on too, or say so where that is allowed; also say what was not
    compared.

    Datasets are compared as a whole, by their digests, and record by record as long as those of both are no more than
    `most` (None: all). What validation_split holds out is never trained on, and not looked at.
    """
    settings = inputs.settings
    if not settings.eval_dataset:
        return []
    trained = [corpus for corpus in inputs.corpora if corpus.entry.share > 0]
    said, left_out = _same_datasets(inputs.held_out, trained), list[str]()
    if not said:
        shared, left_out = _same_records(inputs.held_out, trained, most)
        said = _describe(shared)
    if said and not settings.allow_overlap:
        raise UserError(f"eval_dataset: {said}; {_ADVICE}")
    told = f"{said}: its loss will not tell how well the model does on other text"
    return [f"eval_dataset: {text}" for text in ([told] if said else []) + left_out]


def _same_datasets(held_out: Sequence[Corpus], trained: Sequence[Corpus]) -> str:
    """Which dataset is trained on too, as it is now or as it was before records were appended to one of the two."""
    for corpus in held_out:
        for other in trained:
            if _have_been_the_same(corpus, other):
                return (
                    f"dataset {corpus.entry.task_name!r} holds the records of {other.entry.path}, which is trained on"
                )
    return ""


def _have_been_the_same(corpus: Corpus, other: Corpus) -> bool:
    return bool(set(corpus.dataset.fingerprints) & set(other.dataset.fingerprints) - {""})


def _same_records(
    held_out: Sequence[Corpus], trained: Sequence[Corpus], most: int | None
) -> tuple[SharedRecords | None, list[str]]:
    """The records that are in both, and what was not compared: the smallest datasets are, as long as there is room."""
    parts = [
        [Part(corpus.entry.task_name, corpus.dataset, corpus.records) for corpus in of] for of in (held_out, trained)
    ]
    looked_for, others = ([part for part in some if has_checksums(part)] for some in parts)
    without = [part.name for some in parts for part in some if not has_checksums(part)]
    left_out = [f"{_alone(without)}, for they have no checksums: index them anew"] if without else []
    room = math.inf if most is None else most - sum(part.records for part in looked_for)
    shared = SharedRecords(looked_for) if looked_for and room > 0 else None
    beyond = []
    with ProgressBar("comparing held-out records") as progress:
        for part in sorted(others, key=lambda part: part.records):
            room -= part.records
            if room < 0:
                beyond.append(part.name)
            elif shared is not None:
                shared.look(part, progress.add)
    if beyond and looked_for:
        left_out.append(f"{_alone(beyond)}, for a start compares {most:,} records at most: --dry_run 1 compares all")
    return shared, left_out


def _alone(names: Sequence[str]) -> str:
    return f"it was compared with {', '.join(map(repr, names))} by digests of whole datasets alone"


def _describe(shared: SharedRecords | None) -> str:
    """How many records are trained on too, and the first of them; "" where none is."""
    if shared is None or not shared.found:
        return ""
    pairs = sorted(shared.found, key=lambda pair: (pair.part.name, pair.record))
    first = "; ".join(_pair(pair) for pair in pairs[:_NAMED])
    more = ", the first of them" if len(shared.found) > _NAMED else ""
    return f"{len(shared.found):,} of its {shared.looked_for:,} records are trained on too{more}: {first}"


def _pair(pair: Shared) -> str:
    return (
        f"{record_name(pair.record)} of dataset {pair.part.name!r} is {record_name(pair.other_record)} of "
        f"{pair.other.name!r}"
    )
