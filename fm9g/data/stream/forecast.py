"""How long a mixture lasts: when each dataset that ends will have been read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fm9g.data.example import Example, Ids
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.document import Document, Skip
from fm9g.data.tokens.sample import estimate, spread
from fm9g.data.tokens.survey import Survey
from fm9g.data.tokens.tokenizer import Tokenizer

SAMPLED_DOCUMENTS = 200
LONG = 0.01  # of the records, too long for a row: from here on it is a warning


@dataclass(frozen=True)
class CorpusSample:
    """Some documents of a dataset, evenly spread over its first epoch."""

    examples: list[Example | Skip]
    ids: Ids
    documents: list[Document | Skip]
    mean: float  # places of a row that a record takes, estimated from the ratio to its bytes
    standard_error: float | None  # of the mean; None where one record of several was counted

    def survey(self, tokenizer: Tokenizer) -> Survey:
        """What the tokenizer made of the texts."""
        found = Survey(tokenizer)
        texts = (text for example in self.examples if not isinstance(example, Skip) for text in example.texts)
        for text in dict.fromkeys(texts):
            found.add(text[1], self.ids[text])
        return found

    @property
    def lost(self) -> int:
        """Documents that are too long for a row and give nothing."""
        return sum(isinstance(document, Skip) and document.long for document in self.documents)

    @property
    def cut(self) -> int:
        """Documents that lose the end of their output at the end of a row."""
        return sum(isinstance(document, Document) and document.lost > 0 for document in self.documents)

    def warnings(self, tokenizer: Tokenizer, row_length: int) -> list[str]:
        """What of the texts does not reach the model, in words."""
        said, count = self.survey(tokenizer).warnings(), len(self.documents)
        for number, fate in (
            (self.lost, "longer than max_length {} and give nothing"),
            (self.cut, "longer than max_length {} and lose the end of their output"),
        ):
            if number >= LONG * count:
                said.append(f"{number:,} of {count:,} sampled records are {fate.format(row_length)}")
        return said


def sample_corpus(corpus: Corpus, count: int = SAMPLED_DOCUMENTS) -> CorpusSample:
    """Tokenize up to `count` documents as training does, transform included."""
    examples = corpus.examples(spread(corpus.records, count))
    ids = corpus.encoded(examples)
    documents = corpus.documents(examples, ids)
    places = np.array([document.places if isinstance(document, Document) else 0 for document in documents])
    spans = [corpus.dataset.span(document.record) for document in documents]
    nbytes = np.array([end - start for start, end in spans])
    found = CorpusSample(examples, ids, documents, *estimate(places, nbytes, corpus.records, round(corpus.nbytes)))
    if found.lost or found.cut:  # then places do not go with bytes
        mean = estimate(places, np.ones_like(nbytes), corpus.records, corpus.records)
        found = dataclasses.replace(found, mean=mean[0], standard_error=mean[1])
    return found


@dataclass(frozen=True)
class Ending:
    """A dataset that runs out: at about which step, and of how many tokens."""

    task_name: str
    step: float
    tokens: float


def tokens_per_document(corpus: Corpus) -> float:
    """The mean number of places that a record takes, estimated as sample_corpus does."""
    return sample_corpus(corpus).mean


def _mean(corpus: Corpus, known: Mapping[str, CorpusSample]) -> float:
    name = corpus.entry.task_name
    return known[name].mean if name in known else tokens_per_document(corpus)


def places_of_a_pass(corpora: Sequence[Corpus], samples: Mapping[str, CorpusSample] | None = None) -> float:
    """About how many places documents take that are read once, or as far as they go; `samples` as in `endings`."""
    read = [corpus for corpus in corpora if corpus.entry.share > 0]
    return sum(_mean(c, samples or {}) * c.records * min(1.0, c.entry.epochs or 1.0) for c in read)


def endings(
    corpora: Sequence[Corpus],
    tokens_per_step: float,
    done: Sequence[int],
    first_step: int,
    samples: Mapping[str, CorpusSample] | None = None,
) -> list[Ending]:
    """The datasets that end, in that order, if the run never does; those that repeat for ever are left out.

    `done` says how many documents of each have been read before `first_step`. The rest share the part of a dataset
    that has ended. Steps are estimates: tokens are counted on a sample.
    `samples` are those of the tasks that are sampled already; of others one is taken.
    """
    known = samples or {}
    active = {i: corpus for i, corpus in enumerate(corpora) if corpus.entry.share > 0}
    left = {
        i: max(0.0, corpus.end - done[i]) * _mean(corpus, known)
        for i, corpus in active.items()
        if corpus.entry.epochs is not None
    }
    total, step, found = dict(left), float(first_step), []
    while left:
        whole = sum(corpus.entry.share for corpus in active.values())
        rates = {i: tokens_per_step * active[i].entry.share / whole for i in left}
        first = min(left, key=lambda i: left[i] / rates[i])
        steps = left[first] / rates[first]
        step += steps
        left = {i: tokens - steps * rates[i] for i, tokens in left.items() if i != first}
        found.append(Ending(active.pop(first).entry.task_name, step, total[first]))
    return found


def never_ends(corpora: Sequence[Corpus]) -> bool:
    """Whether any dataset that is read repeats for ever."""
    return any(corpus.entry.epochs is None for corpus in corpora if corpus.entry.share > 0)


def describe(found: Sequence[Ending], steps: int, for_ever: bool, stops: bool) -> list[str]:
    """Lines about the datasets that end before the run's `steps` are done; [] where none does.

    `for_ever`: another never ends; `stops`: else the run does so quietly.
    """
    early = [ending for ending in found if ending.step < steps]
    said = [
        f"dataset {ending.task_name!r} ends at about step {ending.step:,.0f} of {steps:,} "
        f"(about {ending.tokens:,.0f} tokens are left of it)"
        for ending in early
    ]
    if not for_ever and early and len(early) == len(found):
        then = "the run ends there" if stops else "the run fails there, unless stop_when_end=1"
        said.append(f"warning: the whole mixture is exhausted at about step {early[-1].step:,.0f} of {steps:,}: {then}")
    return said
