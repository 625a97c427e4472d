#!/usr/bin/env python
"""Whether what is learned of conversations is what their assistant says with its end token, in every template.

    python benchmarks/chat_labels.py DATA…

DATA are files of conversations in any form of docs/finetune.md. For each template of chat_templates/ a tokenizer of the
data is made that has its tokens. Conversations that a template has no place for, or that are none, are counted as
skipped. A token that joins an answer's first letters with what stands before them is learned. Where
tests/support/jinja_templates.py has what models of that name ship, the ids are compared with those of transformers'
apply_chat_template too. The first conversation that differs is named, and the exit status is 1 then.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fm9g.data.chat.render import Learned, Renderer
from fm9g.data.prepare.readers import read_source
from fm9g.data.record import NoText
from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.support.chats import (
    NAMES,
    TEXTS,
    TOKENS,
    said_in,
    their_ids,
    to_learn,
    tokens_and_ranges,
    transformers_tokenizer,
)
from tests.support.jinja_templates import JINJA, without_day
from tests.support.tiny_tokenizers import with_tokens


def tokenizer_for(name: str, records: list[dict[str, Any]], folder: Path) -> Tokenizer:
    """A tokenizer of some of the records with the tokens of all templates, and the Jinja template of this name."""
    texts = [json.dumps(record, ensure_ascii=False) for record in records[:100]]
    jinja = {"chat_template": without_day(JINJA[name])} if name in JINJA else {}
    return load_tokenizer(with_tokens(folder, [t for t in TOKENS if t not in TEXTS.get(name, [])], texts, **jinja))


def compared(name: str, tokenizer: Tokenizer, records: list[dict[str, Any]]) -> Iterator[bool | None]:
    """Of each record, whether its labels (and ids) are what they should be; None where it has no place."""
    renderer = Renderer(name, tokenizer, Learned())
    theirs = transformers_tokenizer(tokenizer) if name in JINJA else None
    for record in records:
        try:
            tokens, ranges = tokens_and_ranges(renderer, record)
        except NoText:
            yield None
            continue
        expected = to_learn(record, name, tokenizer)
        labels = len(ranges) == len(expected) and all(
            is_answer(tokenizer, ids, *answer) for ids, answer in zip(ranges, expected, strict=True)
        )
        yield labels and (theirs is None or tokens == their_ids(theirs, record))


def is_answer(tokenizer: Tokenizer, ids: list[int], text: str, end: int) -> bool:
    """Whether ids are those of a text and an end, but for what their first token may have before the text."""
    ((said, last),), ((rest, _),) = said_in([ids], tokenizer), said_in([ids[1:]], tokenizer)
    return last == end and (said == text or (said.endswith(text) and text.endswith(rest)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="files of conversations")
    records = [record for path in parser.parse_args().data for record in read_source(path, (), None)]
    wrong = False
    for name in NAMES:
        with tempfile.TemporaryDirectory() as place:
            found = list(compared(name, tokenizer_for(name, records, Path(place) / "tokenizer"), records))
        differing = [number for number, same in enumerate(found) if same is False]
        first = f", the first of them record {differing[0]}" if differing else ""
        what = "labels and ids" if name in JINJA else "labels"
        counts = f"{found.count(True)} alike in {what}, {len(differing)} differ{first}, {found.count(None)} skipped"
        print(f"{name:12} {counts}", flush=True)
        wrong = wrong or bool(differing)
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
