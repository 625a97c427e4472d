"""The corpora and the tokenizer of the loader's benchmarks, made up."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fm9g.data.tokens.training import save_tokenizer, train_tokenizer

WORDS = 30_000
TRAINED_ON = 5000  # records
SEED = 1


def write_corpus(path: Path, sizes: Sequence[int], most: int | None = None) -> None:
    """Records of `sizes` words, and `most` letters, made up; how frequent they are falls as in real text (Zipf)."""
    r = np.random.default_rng(SEED)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = np.array(["".join(r.choice(letters, size)) for size in r.integers(1, 11, WORDS)])
    frequencies = 1 / np.arange(1, WORDS + 1)
    with path.open("w") as file:
        for size in sizes:
            text = " ".join(r.choice(words, size, p=frequencies / frequencies.sum()))
            file.write(json.dumps({"input": "", "output": text[:most]}) + "\n")


def train_on(corpus: Path, folder: Path) -> Path:
    """The tokenizer.json of a tokenizer trained on the first records of a jsonl file."""
    sample = folder / "sample.jsonl"
    with corpus.open() as lines, sample.open("w") as some:
        some.writelines(itertools.islice(lines, TRAINED_ON))
    tokenizer = folder / "tokenizer/tokenizer.json"
    tokenizer.parent.mkdir()
    save_tokenizer(train_tokenizer([sample], WORDS), tokenizer.parent)
    return tokenizer
