"""Turn plain text, one document a line, into jsonl for pretraining.

    %(prog)s < pretrain.txt > pretrain.jsonl

Each line that is not blank becomes {"input": "", "output": line}.
"""

import argparse
import signal
import sys

from fm9g.commandline import parse_flags
from fm9g.data.prepare.plain_text import convert_text


def main() -> None:
    """Run the command line."""
    parse_flags(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when the reader does, like any filter
    convert_text(sys.stdin.buffer, sys.stdout.buffer, "stdin")
