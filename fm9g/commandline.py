"""Command lines: `-` and `_` are the same in a flag's name, `~` is the home folder, a word chooses a command."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fm9g.errors import UserError, closest
from fm9g.files import user_path, write_text

# the repository's scripts by the verb of `fm9g` that runs the same
_SCRIPTS = {
    "text": "convert_txt2jsonl",
    "prepare": "prepare_data",
    "conversations": "convert_to_conv_data",
    "sharegpt": "convert_dataset",
    "mixture": "convert_dataset_info",
    "index": "convert_json2index",
    "check": "check_index",
    "tokenizer": "train_tokenizer",
    "merge-tokenizers": "merge_tokenizers",
    "tokenizer-json": "tokenizer_json",
    "preview": "preview_mixture",
    "inspect": "inspect_index",
    "generate": "generate",
    "serve": "serve",
    "convert from-huggingface": "hgface_2_bmtrain",
    "convert to-huggingface": "bmtrain_2_hgface",
    "convert merge-peft": "merge_peft_adapter",
}


def command(verb: str) -> str:
    """How a person starts another command of FM9G as they started this one, for messages that say what to do."""
    started = Path(sys.argv[0])
    script = f"{_SCRIPTS[verb]}.py"
    folder = started.parent if started.stem in _SCRIPTS.values() else Path("tools")
    return f"python {folder / script}" if (folder / script).is_file() else f"fm9g {verb}"


def _dashed(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the process's), reading ``--a_b`` as ``--a-b``; declare flags with dashes."""
    arguments = sys.argv[1:] if argv is None else argv
    return parser.parse_args([_dashed(argument) for argument in arguments])


def path_text(text: str) -> str:
    """The type of a flag that is a path and is told as it was written, but for a leading ``~``."""
    try:
        return str(user_path(text)) if text.startswith("~") else text
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> Path:
    """The type of a flag that is a path."""
    return Path(path_text(text))


def choose(name: str, usage: str, commands: Mapping[str, tuple[str, str]]) -> None:
    """Run the command that the process's first word chooses of `commands`, {word: (module, its line of help)}.

    Only that module is imported; its `main` finds itself called as `name word`. Without a word, list the commands.
    """
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, commands))
        lines = [f"  {word:{width}}  {meaning}" for word, (_, meaning) in commands.items()]
        print("\n".join([usage, "", *lines, "", f"{name} {next(iter(commands))} --help says more of that one."]))
        return
    if words[0] not in commands:
        hint = closest(words[0], commands)
        raise UserError(f"{name}: no command {words[0]!r}{hint}; {name} --help lists them")
    sys.argv = [f"{name} {words[0]}", *words[1:]]
    importlib.import_module(commands[words[0]][0]).main()


def write_pages(paths: Mapping[str, Path], page: Callable[[str], str], description: str) -> None:
    """The command line of a script that writes docs: `page` gives the text of each language's path."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    arguments = parse_flags(parser)
    stale = [name for name, path in paths.items() if not path.exists() or path.read_text("utf-8") != page(name)]
    if arguments.check and stale:
        names = ", ".join(paths[name].name for name in stale)
        raise UserError(f"docs: {names} not up to date: run `python tools/{Path(sys.argv[0]).name}`")
    for name in () if arguments.check else paths:
        write_text(paths[name], page(name))
