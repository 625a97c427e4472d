"""Look into an indexed dataset: counts, lengths, single records, records that hold a text, real token counts.

    %(prog)s data/pretrain_index
    %(prog)s data/pretrain_index --show 0 5 -1
    %(prog)s data/pretrain_index --search "some text" --limit 20
    %(prog)s data/pretrain_index --tokenizer tokenizer --sample 1000

Counts and lengths are printed where nothing else is asked for. Records are numbered from 0: record i is line i + 1 of
data.jsonl. In what is shown of a record, control characters are spelled as in Python (a newline is \\n, a backslash
\\\\).
"""

import argparse
import itertools
import sys

from fm9g.commandline import parse_flags, path_text
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect.dataset import hit_line, length_lines, record_lines, resolve, summary, token_lines
from fm9g.data.inspect.lengths import measure_lengths, plot_lengths
from fm9g.data.inspect.search import search
from fm9g.data.tokens.sample import sample_tokens
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.figures import require_matplotlib
from fm9g.progress_bar import ProgressBar


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=path_text, metavar="DIR", help="the dataset: a folder with data.jsonl and its index"
    )
    parser.add_argument(
        "--png", type=path_text, metavar="FILE", help="write the histograms of lengths there too (needs matplotlib)"
    )
    parser.add_argument("--show", metavar="N", nargs="+", type=int, default=[], help="records to print; -1 is the last")
    parser.add_argument("--search", metavar="TEXT", help="print the records with this text in a string; case matters")
    parser.add_argument("--limit", metavar="N", type=int, default=10, help="stop after N finds; 0: all (default 10)")
    parser.add_argument(
        "--width", metavar="N", type=int, default=400, help="cut fields to N characters; 0: do not (400)"
    )
    parser.add_argument(
        "--tokenizer", type=path_text, metavar="PATH", help="count real tokens: a sentencepiece file or a HF folder"
    )
    parser.add_argument(
        "--sample", metavar="N", type=int, default=1000, help="records to count tokens of, evenly spread (default 1000)"
    )
    return parse_flags(parser)


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


def _search(dataset: IndexedDataset, text: str, limit: int) -> None:
    print(f"search for {text!r}")
    with ProgressBar(f"searching {dataset.path}") as progress:
        hits = search(dataset, text, progress)
        found = 0
        for hit in itertools.islice(hits, limit or None):
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # the line of progress makes room
            print(f"  {hit_line(hit, text)}", flush=True)
            found += 1
    if limit and found == limit:
        print(f"  {found} found, and then it stopped: --limit 0 finds all")
    else:
        print(f"  {found or 'nothing'} found in {len(dataset):,} records")


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    for name in ("limit", "width"):
        if getattr(arguments, name) < 0:
            raise UserError(f"{name} must not be negative, not {getattr(arguments, name)}")
    if arguments.png:
        require_matplotlib()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # for terminals without UTF-8
    tokenizer = load_tokenizer(arguments.tokenizer) if arguments.tokenizer else None
    dataset = IndexedDataset(arguments.folder)
    numbers = [resolve(dataset, number) for number in arguments.show]
    if not (numbers or tokenizer or arguments.search is not None):
        _print(summary(dataset) + length_lines(measure_lengths(dataset), dataset.meta))
    if arguments.png:
        plot_lengths(arguments.png, measure_lengths(dataset), dataset.meta)
        print(f"{arguments.png}: written")
    for number in numbers:
        _print(record_lines(dataset, number, arguments.width or None))
    if tokenizer is not None:
        with ProgressBar(f"counting tokens of {dataset.path}") as progress:
            sample = sample_tokens(dataset, tokenizer, arguments.sample, progress)
        _print(token_lines(sample, dataset.meta))
    if arguments.search is not None:
        _search(dataset, arguments.search, arguments.limit)
