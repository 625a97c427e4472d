#!/usr/bin/env python
"""Whether conversations are given the ids that transformers' apply_chat_template gives them, by a model's own template.

    python benchmarks/chat_ids.py MODEL_FOLDER DATA…

DATA are files of conversations in any form of docs/finetune.md. Those that the template refuses, or that are none, are
counted as skipped; the first that differs is named, and the exit status is 1 then.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fm9g.data.chat.render import TOKENIZER, Learned, Renderer
from fm9g.data.prepare.readers import read_source
from fm9g.data.record import NoText
from fm9g.data.tokens.tokenizer import load_tokenizer
from tests.support.chats import their_ids, tokens_and_ranges, transformers_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder with a chat template")
    parser.add_argument("data", nargs="+", help="files of conversations")
    flags = parser.parse_args()
    tokenizer = load_tokenizer(flags.model)
    renderer, theirs = Renderer(TOKENIZER, tokenizer, Learned()), transformers_tokenizer(tokenizer)
    wrong = False
    for path in flags.data:
        same, differing, skipped = 0, list[int](), 0
        for number, record in enumerate(read_source(path, (), None)):
            try:
                ids = tokens_and_ranges(renderer, record)[0]
            except NoText:
                skipped += 1
                continue
            if ids == list(their_ids(theirs, record)):
                same += 1
            else:
                differing.append(number)
        first = f", the first of them record {differing[0]}" if differing else ""
        print(f"{path}: {same} alike, {len(differing)} differ{first}, {skipped} skipped", flush=True)
        wrong = wrong or bool(differing)
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
