"""Turn datasets of a dataset_info.json, as LLaMA-Factory has it, into indexed datasets and a mixture of them.

    %(prog)s --dataset_info data/dataset_info.json --dataset alpaca_zh_demo,identity --output dataset_config/demo.json

Files, columns and tags are read as that file says. The datasets are written to a folder beside the mixture
(demo.data/NAME), and weighed by their tokens, so that an epoch of the mixture is about one of each: exactly so with
--tokenizer_path, without it by what tokenizers usually make of so many characters. The same command twice does nothing
the second time.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm9g.commandline import parse_flags, path
from fm9g.data.chat.render import TOKENIZER
from fm9g.data.chat.template import read_template, template_path
from fm9g.data.index.build import build
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.prepare.dataset_info import Described, describe, write_records
from fm9g.data.prepare.plain_text import convert_text
from fm9g.data.prepare.question_answer import is_chinese
from fm9g.data.tokens.sample import spread
from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer
from fm9g.errors import UserError
from fm9g.files import read_json, write_json
from fm9g.progress_bar import ProgressBar

_LOOKED_AT = 200  # records whose language is told
_COUNTED = 2000  # records whose tokens are counted


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset-info", type=path, required=True, help="the file; its datasets' files lie beside it")
    add("--dataset", required=True, metavar="NAME[,NAME]", help="which of its datasets")
    add("--output", type=path, required=True, help="the mixture to write, dataset_config/X.json")
    add("--template", default="tokenizer", help="of the conversations (default: tokenizer, its folder's own)")
    add("--tokenizer-path", type=path, help="the model's tokenizer, with which datasets are weighed")
    arguments = parse_flags(parser)
    tokenizer = load_tokenizer(arguments.tokenizer_path) if arguments.tokenizer_path else None
    if arguments.template != TOKENIZER:
        read_template(template_path(arguments.template))
    names = [name.strip() for name in arguments.dataset.split(",") if name.strip()]
    if len(set(names)) < len(names) or not names:
        raise UserError(f"dataset: {arguments.dataset!r} names a dataset twice, or none")
    if arguments.output.suffix != ".json":
        raise UserError(f"output: {arguments.output}: the name of a mixture ends in .json")
    described = describe(arguments.dataset_info, names)
    data = arguments.output.with_suffix(".data")
    entries = [_entry(dataset, data, arguments.template, tokenizer) for dataset in described]
    if tokenizer is None and len(entries) > 1:
        print("note: weights are estimates by characters; --tokenizer_path has tokens counted", file=sys.stderr)
    if arguments.output.exists():
        if read_json(arguments.output) != entries:
            raise UserError(f"{arguments.output}: exists already and says something else; choose another name")
        print(f"{arguments.output}: is there already, nothing to do")
        return
    write_json(arguments.output, entries)
    print(f"{arguments.output}: a mixture of {', '.join(names)}")


def _entry(dataset: Described, data: Path, template: str, tokenizer: Tokenizer | None) -> dict[str, object]:
    """Index a dataset into its folder under `data`; its entry of the mixture."""
    for key in dataset.ignored:
        print(f"note: {dataset.name}: {key} is not looked at: all of its records are taken", file=sys.stderr)
    folder = data / dataset.name
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data, prefix=".") as temporary:
        parts = []
        for number, file in enumerate(dataset.files):
            part = Path(temporary, f"{number:05d}.jsonl")
            if file.suffix == ".txt":
                with open(file, "rb") as source, open(part, "wb") as sink:
                    convert_text(source, sink, str(file))
            else:
                print(f"{file}: {write_records(dataset, file, part)}")
            parts.append(part)
        with ProgressBar(f"indexing {dataset.name}") as progress:
            build(parts, folder, _language(parts[0]), progress=progress)
    indexed = IndexedDataset(folder)
    mean = indexed.meta["avg_token_per_line"] if tokenizer is None else _mean_tokens(indexed, tokenizer)
    tokens = max(1, round(mean * len(indexed)))
    entry: dict[str, object] = {"path": f"{data.name}/{dataset.name}", "abs_weight": tokens, "task_name": dataset.name}
    return entry | ({"format": "chat", "template": template} if dataset.format == "chat" else {})


def _mean_tokens(indexed: IndexedDataset, tokenizer: Tokenizer) -> float:
    """The mean number of tokens of a record's texts, by a sample."""
    sampled = spread(len(indexed), _COUNTED)
    texts = ["\n".join(_texts(json.loads(indexed.read(number)))) for number in sampled]
    return sum(map(len, tokenizer.encode_all(texts))) / len(sampled)


def _language(part: Path) -> str:
    """The language of records, for the estimate of their tokens."""
    with open(part, "rb") as file:
        lines = [line for line, _ in zip(file, range(_LOOKED_AT), strict=False)]
    text = "".join(text for line in lines for text in _texts(json.loads(line)))
    return "zh" if is_chinese("".join(character for character in text if character.isalpha())) else "en"


def _texts(value: Any) -> Iterator[str]:
    """The texts in a record, without who says them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        inner = [held for key, held in value.items() if key != "from"] if isinstance(value, dict) else value
        for held in inner:
            yield from _texts(held)
