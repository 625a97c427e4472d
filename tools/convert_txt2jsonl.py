#!/usr/bin/env python
"""Turn plain text, one document a line, into jsonl for pretraining.

    cat pretrain.txt | python convert_txt2jsonl.py > pretrain.jsonl

Each line that is not blank becomes {"input": "", "output": line}.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commandline import parse_flags
from fm9g.data.text import convert_text
from fm9g.errors import run_command


def main() -> None:
    """Run the command line."""
    parse_flags(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when the reader does, like any filter
    convert_text(sys.stdin.buffer, sys.stdout.buffer, "stdin")


if __name__ == "__main__":
    run_command(main)
