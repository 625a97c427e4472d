"""Continue texts, answer questions, or talk: with a file of weights, a checkpoint or a Hugging Face folder.

    %(prog)s --model out/model.pt --prompt "Once upon a time"
    %(prog)s --model apps/fm9g_7b/data/checkpoints/sft --chat
    %(prog)s --model models/llama --adapter lora.pt --dev_file dev.jsonl --output_file predictions.jsonl

A --prompt is a text to continue, and with --template a question. Several ranks (torchrun --nproc_per_node=2 …) share a
model that is too large for one, or the records of a --dev_file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fm9g.commandline import parse_flags, path
from fm9g.commands.model_flags import NO_TEMPLATE, add_model_flags, need_template, open_model
from fm9g.environment import tell
from fm9g.errors import UserError
from fm9g.files import read_lines, require_file

if TYPE_CHECKING:  # torch is imported late here, after the flags have been checked
    from fm9g.serve.text_model import Request, TextModel

NEW_TOKENS, BATCH_SIZE = 512, 8


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_flags(parser)
    add = parser.add_argument
    add("--prompt", nargs="+", metavar="TEXT", help="texts to continue, or with --template questions")
    add("--prompt-file", type=path, metavar="FILE", help="the same, one a line")
    add(
        "--dev-file",
        type=path,
        metavar="FILE",
        help="records with answers of their own, to be compared (needs --output_file)",
    )
    add("--chat", action="store_true", help="talk in the terminal")
    add(
        "--output-file",
        type=path,
        metavar="FILE",
        help="write jsonl there: input, predict and, of a --dev_file, target",
    )
    add("--overwrite", action="store_true", help="replace the output file")
    add("--system", default="", metavar="TEXT", help="the system text of questions")
    add(
        *("--max-new-tokens", "--max-length"), dest="max_new_tokens", type=int, default=NEW_TOKENS, metavar="N",
        help="tokens of a continuation at most (%(default)s)",
    )  # fmt: skip
    add("--temperature", type=float, default=0.0, help="0: the likeliest token (%(default)s)")
    add("--top-k", type=int, default=0, help="of so many tokens, 0: all (%(default)s)")
    add(
        "--top-p", type=float, default=1.0, help="of the likeliest tokens with so much of the probability (%(default)s)"
    )
    add("--min-p", type=float, default=0.0, help="of tokens at least so likely beside the likeliest (%(default)s)")
    add("--repetition-penalty", type=float, default=1.0, help="against tokens that were there, 1: none (%(default)s)")
    add("--num-beams", type=int, default=1, help="search with so many beams (%(default)s)")
    add("--stop", nargs="+", default=[], metavar="TEXT", help="texts before which a continuation ends")
    add("--seed", type=int, default=0, help="of sampling (%(default)s)")
    add(
        *("--batch-size", "--dev-batch-size"), dest="batch_size", type=int, default=BATCH_SIZE, metavar="N",
        help="rows at once (%(default)s)",
    )  # fmt: skip
    return parser


def check(flags: argparse.Namespace) -> None:
    """Refuse flags that do not go together, before anything is loaded."""
    asked = [name for name in ("prompt", "prompt_file", "dev_file", "chat") if getattr(flags, name)]
    if len(asked) != 1:
        raise UserError("give one of --prompt, --prompt_file, --dev_file and --chat")
    if flags.dev_file and not flags.output_file:
        raise UserError("--dev_file needs --output_file, the jsonl to write")
    if flags.output_file and flags.chat:
        raise UserError("--output_file has no use with --chat")
    if flags.output_file:
        _check_output(flags)
    if flags.chat and flags.template == NO_TEMPLATE:
        raise UserError(
            "--chat needs a template, and --template none says that there is none: --prompt continues texts"
        )
    if flags.system and (flags.dev_file or (not flags.chat and flags.template in (None, NO_TEMPLATE))):
        raise UserError("--system is for questions: --chat, or --prompt with --template (records have their own)")
    for file in filter(None, _inputs(flags)):
        require_file(file, streamed=True)
    if flags.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {flags.batch_size}")
    if not 0 <= flags.seed < 1 << 32:
        raise UserError(f"seed must be from 0 to 4294967295, not {flags.seed}")


def _check_output(flags: argparse.Namespace) -> None:
    """Refuse an output that could not be written, or that is to be read, before the work rather than after."""
    output: Path = flags.output_file
    if output.is_dir():
        raise UserError(f"{output}: is a folder; name a file")
    if any(file and file.exists() and output.exists() and output.samefile(file) for file in _inputs(flags)):
        raise UserError(f"{output}: is the file that is read; name another one")
    if output.exists() and not flags.overwrite:
        raise UserError(f"{output} exists; --overwrite replaces it")
    there = next(folder for folder in output.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{output}: cannot be written: {there} is not a writable folder")


def _inputs(flags: argparse.Namespace) -> tuple[Path | None, Path | None]:
    return flags.prompt_file, flags.dev_file


def request_of(flags: argparse.Namespace) -> Request:
    """How the flags ask for text."""
    from fm9g.generation.sampling import Sampling
    from fm9g.serve.text_model import Request

    sampling = Sampling(flags.temperature, flags.top_k, flags.top_p, flags.min_p, flags.repetition_penalty)
    return Request(flags.max_new_tokens, sampling, flags.num_beams, flags.seed, tuple(flags.stop))


def main() -> None:
    """Run the command line."""
    flags = parse_flags(arguments())
    check(flags)
    request = request_of(flags)
    if not flags.temperature and (flags.top_k or flags.top_p < 1 or flags.min_p):
        tell("note: temperature is 0: the likeliest token is taken, and top_k, top_p and min_p do nothing")
    talks = flags.chat or flags.template not in (None, NO_TEMPLATE)
    with open_model(flags, talks or bool(flags.dev_file)) as model:
        if talks:
            need_template(model)
        if flags.dev_file:
            from fm9g.serve.records import write_predictions

            write_predictions(model, flags.dev_file, flags.output_file, request, flags.batch_size)
        elif flags.chat:
            from fm9g.serve.terminal import chat

            chat(model, request, flags.system)
        else:
            _continue(model, flags, request)


def _continue(model: TextModel, flags: argparse.Namespace, request: Request) -> None:
    """Answer prompts: to the file that is named, or to the terminal, one as it comes and several under their heads."""
    from fm9g import runtime
    from fm9g.serve.records import Asked, predict
    from fm9g.serve.terminal import stream

    texts = flags.prompt or read_lines(flags.prompt_file)
    chat, asked = model.renderer is not None, []
    for text in texts:
        record = {"messages": [{"role": "user", "content": text}], **({"system": flags.system} if flags.system else {})}
        asked.append(Asked(text, model.chat_prompt(record) if chat else model.text_prompt(text), ""))
        model.check_room(asked[-1].prompt)
    if not asked:
        raise UserError(f"{flags.prompt_file}: holds no text")
    if len(asked) == 1 and not flags.output_file:
        stream(model, asked[0].prompt, request, chat)
        return
    predictions = predict(model, asked, request, flags.batch_size)
    if runtime.rank() == 0:
        _write(texts, predictions, flags.output_file)


def _write(texts: list[str], predictions: list[str], output: Path | None) -> None:
    if output is None:
        for text, said in zip(texts, predictions, strict=True):
            print(f"=== {text}\n{said}")
        return
    from fm9g.serve.records import write_lines

    write_lines(output, [{"input": text, "predict": said} for text, said in zip(texts, predictions, strict=True)])
    print(f"{output}: {len(texts)} records")
