"""Show the first rows of a mixture exactly as a model will see them, and the shares that its datasets get.

    %(prog)s --dataset_config mixture.json --tokenizer_path tokenizer --max_length 4096
    %(prog)s --dataset_config mixture.json --tokenizer_path tokenizer --steps 100 --rows 0

Nothing is trained and nothing written. With the settings of a run (those below that a run has too, its number of ranks
and its seed) the rows are the run's. Each row is printed with its pieces: dataset, record, tokens and their text, where
control characters are spelled as in Python. At the end, the shares of all that was read are compared with the mixture.
"""

import argparse
import sys

from fm9g.commandline import parse_flags
from fm9g.data.chat.render import Learned
from fm9g.data.chat.settings import ChatSettings
from fm9g.data.inspect.preview import Preview
from fm9g.data.inspect.preview_text import Style, row_lines, total_lines
from fm9g.data.stream.corpus import open_corpora
from fm9g.data.stream.loader import Plan
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.display import COLOR_CHOICES, wants_color
from fm9g.errors import UserError
from fm9g.training.inputs import APP, find, mixture_path
from fm9g.training.settings import Settings


def _arguments() -> argparse.Namespace:
    run = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset-config", required=True, metavar="FILE", help="the mixture: a .json, or a name in dataset_config/")
    add("--tokenizer-path", required=True, metavar="PATH", help="a sentencepiece file or a Hugging Face folder")
    add("--max-length", type=int, metavar="N", default=run.max_length, help=f"places in a row ({run.max_length})")
    add("--batch-size", type=int, metavar="N", default=run.batch_size, help=f"rows of a rank ({run.batch_size})")
    add("--grad-accum", type=int, metavar="N", default=run.grad_accum, help=f"micro-steps a step ({run.grad_accum})")
    add("--ranks", type=int, metavar="N", default=1, help="processes of the run: nodes x n_gpus / tp_size (1)")
    add("--seed", type=int, metavar="N", default=run.seed, help=f"the seed of the run ({run.seed})")
    add("--train-on-prompt", action="store_true", help="of conversations, all is learned")
    add("--mask-history", action="store_true", help="of conversations, the last answer alone is learned")
    add("--steps", type=int, metavar="N", default=1, help="steps to read, from the first on (1)")
    add("--rows", type=int, metavar="N", help="rows of each step to print; all are counted (all)")
    add("--full", action="store_true", help="do not cut long texts in the middle")
    add("--color", choices=COLOR_CHOICES, default="auto", help="auto: on a terminal, unless NO_COLOR is set (auto)")
    return parse_flags(parser)


def _check(arguments: argparse.Namespace) -> None:
    for name in ("max_length", "batch_size", "grad_accum", "ranks", "steps"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(arguments, name)}")
    if arguments.rows is not None and arguments.rows < 0:
        raise UserError(f"rows must not be negative, not {arguments.rows}")
    if not 0 <= arguments.seed < 1 << 32:
        raise UserError(f"seed must be from 0 to 4294967295, not {arguments.seed}")


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    _check(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # for terminals without UTF-8
    style = Style(wants_color(arguments.color, sys.stdout), arguments.full)
    settings = Settings(dataset_config=arguments.dataset_config)
    entries = read_mixture(mixture_path(settings, APP, settings.dataset_config))
    plan = Plan(arguments.seed, arguments.max_length, arguments.batch_size, arguments.grad_accum, ranks=arguments.ranks)
    tokenizer = load_tokenizer(find(settings, APP, arguments.tokenizer_path))
    ChatSettings(arguments.train_on_prompt, arguments.mask_history).check()
    learned = Learned(arguments.train_on_prompt, arguments.mask_history)
    corpora = open_corpora(entries, tokenizer, plan.seed, plan.row_length, learned)
    preview = Preview(corpora, tokenizer, plan, arguments.steps)
    if arguments.rows != 0:
        print(style.legend())
    for rows in preview:
        for row in rows[: arguments.rows]:
            print("\n".join(row_lines(row, plan.row_length, entries, style)), flush=True)
    if preview.ended:
        print(f"the datasets end here: after step {preview.totals.steps - 1} nothing is left")
    print("\n".join(total_lines(preview.totals, entries)))
