"""The flags of commands that talk to a model, and the model that they name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fm9g.commandline import path
from fm9g.data.chat.jinja_source import has_template
from fm9g.data.chat.render import TOKENIZER
from fm9g.environment import tell
from fm9g.errors import UserError
from fm9g.tensors.lazy import DTYPE_ARGUMENTS, parse_dtype

if TYPE_CHECKING:
    from fm9g.serve.text_model import TextModel

NO_TEMPLATE = "none"


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """--model and what goes with it; BELLE's names for some mean the same."""
    add = parser.add_argument
    add(
        *("--model", "--model-name-or-path"), dest="model", type=path, required=True, metavar="PATH",
        help="a file of weights (its .json beside it), the folder of a checkpoint or a run, or a Hugging Face folder",
    )  # fmt: skip
    add(
        *("--adapter", "--lora-weights"), dest="adapter", type=path, metavar="PATH",
        help="LoRA adapters for it: a file, the folder of a checkpoint or a run, or a PEFT folder",
    )  # fmt: skip
    add("--tokenizer", type=path, metavar="PATH", help="a tokenizer's file or folder (default: the model's own)")
    add(
        "--template", metavar="NAME",
        help="the chat template: of chat_templates/, a path, tokenizer (that of the tokenizer's folder) or none "
        "(default, for conversations: the one trained with, or the tokenizer's)",
    )  # fmt: skip
    add("--dtype", help=f"what to compute in, one of {', '.join(DTYPE_ARGUMENTS)} (default: the model's own)")


def open_model(flags: argparse.Namespace, chat: bool) -> TextModel:
    """Start the runtime and load what the flags name; `chat`: with a template, if one is known."""
    dtype = parse_dtype(flags.dtype) if flags.dtype else None
    from fm9g import runtime
    from fm9g.serve.source import find_source
    from fm9g.serve.text_model import load

    source = find_source(flags.model, flags.adapter, dtype)
    template = None if flags.template == NO_TEMPLATE else flags.template
    if chat and flags.template is None:
        folder = flags.tokenizer or source.tokenizer
        template = source.template
        if template is None and folder is not None and has_template(folder if folder.is_dir() else folder.parent):
            template = TOKENIZER
        tell(f"note: questions are put by the template {template or 'none'}")
    runtime.initialize(getattr(flags, "seed", 0))
    return load(source, flags.tokenizer, template, dtype)


def need_template(model: TextModel) -> None:
    """Refuse to talk without a template."""
    if model.renderer is None:
        raise UserError("nothing says how questions are put to this model: name a chat template (--template)")
