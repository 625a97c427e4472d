"""Add the pieces of a domain's tokenizer to a base's, whose ids all stay; the model's rows for them come after.

    %(prog)s --base models/base --domain tokenizer_law --output models/merged_tokenizer
    python tools/hgface_2_bmtrain.py --huggingface-dir models/base --output 9g_models/law.pt \\
        --tokenizer models/merged_tokenizer --resize-from models/base

Both are sentencepiece .model files or folders with tokenizer.json (BPE) or tokenizer.model, and spell pieces alike. New
pieces are joined from the base's own tokens, after all else: no text gets more tokens than it had, and one that holds
no new piece has the same.
"""

from __future__ import annotations

import argparse

from fm9g.commandline import parse_flags, path
from fm9g.convert.tokenizer.merged import merge_tokenizers


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", type=path, required=True, help="the tokenizer of the model")
    add("--domain", type=path, required=True, help="the tokenizer whose pieces are added")
    add("--output", type=path, required=True, metavar="DIR", help="the folder to write")
    add("--sample", type=path, nargs="+", help="jsonl files of the domain: their tokens before and after are counted")
    add("--overwrite", action="store_true", help="replace the tokenizer in a folder that is not empty")
    flags = parse_flags(parser)
    report = merge_tokenizers(flags.base, flags.domain, flags.output, flags.sample, flags.overwrite)
    print(f"{flags.output}: {report.line()}")
