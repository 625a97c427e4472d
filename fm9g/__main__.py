"""The command `fm9g`, also as `python -m fm9g`."""

from __future__ import annotations

import sys

from fm9g import __version__
from fm9g.commandline import choose
from fm9g.errors import run_command

USAGE = """usage: fm9g VERB [--flag value ...]

From text to a model: pretraining of decoder language models on BMTrain."""
VERBS = {
    "text": ("fm9g.commands.text", "turn plain text, a document a line, into jsonl"),
    "prepare": ("fm9g.commands.prepare", "turn data of other formats into jsonl with input and output"),
    "conversations": ("fm9g.commands.conversations", "turn instructions with answers into conversations with ids"),
    "sharegpt": ("fm9g.commands.sharegpt", "turn instructions or questions with answers into conversations"),
    "mixture": ("fm9g.commands.mixture", "turn datasets of a dataset_info.json into a mixture"),
    "index": ("fm9g.commands.index", "index jsonl files, so that training can read them"),
    "check": ("fm9g.commands.check", "verify every byte of an indexed dataset"),
    "inspect": ("fm9g.commands.inspect", "look into an indexed dataset: lengths, records, texts, tokens"),
    "tokenizer": ("fm9g.commands.tokenizer", "train a tokenizer on jsonl files"),
    "merge-tokenizers": ("fm9g.commands.merge_tokenizers", "add a domain's pieces to a base's tokenizer"),
    "tokenizer-json": ("fm9g.commands.tokenizer_json", "write the tokenizer.json that a model comes without"),
    "preview": ("fm9g.commands.preview", "show rows of a mixture as the model will see them"),
    "train": ("fm9g.commands.train", "train on this node (--dry_run checks everything and starts nothing)"),
    "convert": ("fm9g.commands.convert", "convert weights from and to Hugging Face"),
    "generate": ("fm9g.commands.generate", "continue texts, answer questions, or talk, with a model"),
    "serve": ("fm9g.commands.serve", "serve a model over HTTP: OpenAI's API, and a page to talk"),
    "env": ("fm9g.commands.env", "print versions and hardware, for a bug report"),
}


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] == ["--version"]:
        print(f"fm9g {__version__}")
    else:
        run_command(lambda: choose("fm9g", USAGE, VERBS))


if __name__ == "__main__":
    main()
