"""Other loaders at the same job as benchmarks/loader.py, in an environment of their own:

    python -m venv rivals && rivals/bin/pip install torch==2.13.0 numpy==2.1.3 transformers==4.57.6 \
        tokenizers==0.22.2 litdata==0.2.76 mosaicml-streaming==0.13.0 datasets==5.0.1

A corpus is brought into each one's own format, read shuffled, tokenized in one DataLoader worker with the fastest
call of the tokenizers library, and packed into rows without padding.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import tokenizers
import torch
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import TEXTS_AT_ONCE, Meter, rates, serve

SEED = 1
CHUNK = 64 << 20  # bytes of a shard, the default of litdata's and MosaicML's own examples


def texts_of(corpus: str) -> Iterator[str]:
    """The text of each record of a jsonl file."""
    with open(corpus, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["output"]


class LitData:
    """litdata: chunks of an optimized dataset."""

    @staticmethod
    def prepare(corpus: str, folder: str) -> None:
        """Bring the corpus into the format."""
        import litdata

        litdata.optimize(texts_of, [corpus], folder, chunk_bytes=CHUNK, num_workers=1)

    @staticmethod
    def read(folder: str) -> Any:
        """A dataset whose iteration gives texts, shuffled."""
        import litdata

        return litdata.StreamingDataset(folder, shuffle=True, seed=SEED)


class Mosaic:
    """mosaicml-streaming: MDS shards."""

    @staticmethod
    def prepare(corpus: str, folder: str) -> None:
        """Bring the corpus into the format."""
        import streaming

        with streaming.MDSWriter(out=folder, columns={"text": "str"}, size_limit=CHUNK) as writer:
            for text in texts_of(corpus):
                writer.write({"text": text})

    @staticmethod
    def read(folder: str) -> Any:
        """A dataset whose iteration gives texts, shuffled."""
        import streaming

        streaming.base.util.clean_stale_shared_memory()
        options = {"batch_size": 100, "predownload": 100_000}  # by default it waits for each shard as if it were remote
        return Field(streaming.StreamingDataset(local=folder, shuffle=True, shuffle_seed=SEED, **options), "text")


class HuggingFace:
    """datasets: an Arrow table read through shuffled indices, a hundred rows at a time."""

    @staticmethod
    def prepare(corpus: str, folder: str) -> None:
        """Bring the corpus into the format."""
        import datasets

        datasets.load_dataset("json", data_files=corpus, split="train", cache_dir=folder + ".cache").save_to_disk(
            folder
        )

    @staticmethod
    def read(folder: str) -> Any:
        """A dataset whose iteration gives texts, shuffled."""
        import datasets

        return Batched(datasets.load_from_disk(folder).shuffle(seed=SEED))


class Field:
    """One field of each of a dataset's records."""

    def __init__(self, dataset: Iterable[dict[str, str]], key: str) -> None:
        self._dataset, self._key = dataset, key

    def __iter__(self) -> Iterator[str]:
        return (record[self._key] for record in self._dataset)


class Batched:
    """The texts of a datasets.Dataset."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[str]:
        for batch in self._dataset.iter(batch_size=100):
            yield from batch["output"]


class Epochs:
    """A dataset's texts, again and again."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(repeat(self._texts))


class Rows(IterableDataset):  # type: ignore[type-arg]
    """Packed batches [rows, row_length] of a dataset of texts."""

    def __init__(self, texts: Iterable[str], tokenizer: str, rows: int, row_length: int) -> None:
        self._texts, self._tokenizer = texts, tokenizer
        self._shape = rows, row_length

    def __iter__(self) -> Iterator[torch.Tensor]:
        tokenizer = tokenizers.Tokenizer.from_file(self._tokenizer)
        end = tokenizer.get_vocab_size() - 1
        wanted = self._shape[0] * self._shape[1]
        parts: list[np.ndarray] = []
        held = 0
        texts = iter(self._texts)
        while lot := list(islice(texts, TEXTS_AT_ONCE)):
            for encoding in tokenizer.encode_batch_fast(lot, add_special_tokens=False):
                ids = np.asarray([*encoding.ids, end], dtype=np.int64)
                parts.append(ids)
                held += len(ids)
            if held >= wanted:
                strip = np.concatenate(parts)
                yield torch.from_numpy(strip[:wanted].reshape(self._shape))
                parts, held = [strip[wanted:]], len(strip) - wanted


RIVALS: dict[str, Any] = {"litdata": LitData, "mosaicml-streaming": Mosaic, "datasets": HuggingFace}


def main() -> None:
    name, measure, corpus, folder, tokenizer, rows, row_length = sys.argv[1:]
    rival = RIVALS[name]
    if measure == "prepare":
        rival.prepare(corpus, folder)
    elif measure == "tokens":
        dataset = Rows(Epochs(rival.read(folder)), tokenizer, int(rows), int(row_length))
        serve(Meter(batch.numel() for batch in DataLoader(dataset, batch_size=None, num_workers=1)))
    else:
        texts = iter(Epochs(rival.read(folder)))
        serve(lambda: rates(texts, 500))


if __name__ == "__main__":
    main()
