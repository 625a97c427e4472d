"""Train a byte-level BPE tokenizer on the "input" and "output" of jsonl records.

    %(prog)s --path A.jsonl B.jsonl --vocab_size 32000 --output DIR

DIR becomes a Hugging Face tokenizer folder, for tokenizer_path and for transformers' AutoTokenizer.
"""

import argparse
import sys

from fm9g.commandline import parse_flags, path_text
from fm9g.data.index.output_folder import output_folder
from fm9g.data.tokens.training import TOKENIZER_FILES, save_tokenizer, train_tokenizer


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-p",
        "--path",
        type=path_text,
        required=True,
        nargs="+",
        help="jsonl files, .gz and .zst too, or folders of them",
    )
    parser.add_argument("--vocab-size", required=True, type=int, help="tokens, <s> and </s> included; at least 258")
    parser.add_argument("-o", "--output", type=path_text, required=True, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the tokenizer in a folder that is not empty")
    arguments = parse_flags(parser)
    with output_folder(arguments.output, arguments.overwrite, TOKENIZER_FILES) as folder:
        tokenizer = train_tokenizer(arguments.path, arguments.vocab_size)
        save_tokenizer(tokenizer, folder)
    size = tokenizer.get_vocab_size()
    print(f"{arguments.output}: {size} tokens")
    if size < arguments.vocab_size:
        print(f"warning: that text has no more pairs to merge; {arguments.vocab_size} were asked for", file=sys.stderr)
