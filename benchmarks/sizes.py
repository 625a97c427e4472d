#!/usr/bin/env python
"""How long the project's files and functions are, in lines: how many, median, 90th percentile, the longest.

python benchmarks/sizes.py [--against COMMIT]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import ROOT, tree_of
from tests.support.sources import sources


def show(title: str, root: Path) -> None:
    """The table of a tree."""
    print(f"{title}\n{'':34}{'count':>7}{'median':>8}{'p90':>6}{'max':>6}")
    for what, folders in (
        ("fm9g", ("fm9g",)),
        ("tools, apps, benchmarks", ("tools", "apps", "benchmarks")),
        ("tests", ("tests",)),
    ):
        found = sources(root, folders)
        files = [source.lines for source in found]
        functions = [lines for source in found for lines in source.functions().values()]
        for kind, sizes in (("files", files), ("functions", functions)):
            median, p90, most = np.quantile(sizes, [0.5, 0.9, 1])
            print(f"{what + ', ' + kind:34}{len(sizes):>7}{median:>8.0f}{p90:>6.0f}{most:>6.0f}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="a commit of this repository to show beside it")
    against = parser.parse_args().against
    if against:
        with tempfile.TemporaryDirectory(prefix="sizes.") as folder:
            show(against, tree_of(against, Path(folder) / "tree"))
    show("here", ROOT)


if __name__ == "__main__":
    main()
