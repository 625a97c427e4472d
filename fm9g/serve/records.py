"""Predictions for every record of a file, beside what it says itself."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fm9g import runtime
from fm9g.data.chat.conversation import Conversation, read_conversation, read_question, waits
from fm9g.data.prepare.readers import read_source
from fm9g.data.record import plain_text, record_name
from fm9g.data.tokens.tokenizer import without_surrogates
from fm9g.errors import UserError, about
from fm9g.files import atomic_file
from fm9g.progress_bar import ProgressBar
from fm9g.serve.scores import scores
from fm9g.serve.text_model import Request, TextModel


class Asked(NamedTuple):
    """What a record asks, and what it answers itself."""

    input: str
    prompt: list[int]
    target: str


def read_asked(path: Path, model: TextModel) -> list[Asked]:
    """Each record of a file: of a conversation its last answer, if the model has a template, or the one that it waits
    for, of which the target is empty; else of input and output.

    UserError for a record that is none of that, or that leaves no room for an answer.
    """
    found = []
    for number, record in enumerate(read_source(path, (), None)):
        with about(f"{path}, {record_name(number, path.suffix == '.jsonl')}"):
            asked = _by_template(record, model) if model.renderer else _by_text(record, model)
            model.check_room(asked.prompt)
            found.append(asked)
    if not found:
        raise UserError(f"{path}: holds no records")
    return found


def _by_template(record: dict[str, Any], model: TextModel) -> Asked:
    if waits(record):
        waiting = read_question(record)
        return Asked(waiting.turns[-1].text, model.prompt_of(waiting), "")
    conversation = read_conversation(record)
    *before, answer = conversation.turns
    waiting = Conversation(tuple(before), conversation.system, conversation.tools)
    return Asked(before[-1].text, model.prompt_of(waiting), answer.text)


def _by_text(record: dict[str, Any], model: TextModel) -> Asked:
    asked, answer = plain_text(record)
    return Asked(asked, model.text_prompt(asked), answer)


def predict(model: TextModel, asked: Sequence[Asked], request: Request, batch_size: int) -> list[str]:
    """What the model says to each, on every rank; ranks that each hold the model share them."""
    order = sorted(range(len(asked)), key=lambda number: len(asked[number].prompt), reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mine = batches[runtime.rank() :: runtime.world_size()] if model.by_itself else batches
    said: dict[int, str] = {}
    with ProgressBar("answers", sum(map(len, mine)), unit="records") as progress:
        for number, batch in enumerate(mine):
            seeded = dataclasses.replace(request, seed=request.seed + number * runtime.world_size() + runtime.rank())
            texts = model.answers([asked[i].prompt for i in batch], seeded, model.renderer is not None)
            said |= dict(zip(batch, texts, strict=True))
            progress.add(len(batch))
    for others in runtime.gather_bytes(json.dumps(said).encode()):
        said |= {int(number): text for number, text in json.loads(others).items()}
    return [said[number] for number in range(len(asked))]


def write_predictions(model: TextModel, path: Path, output: Path, request: Request, batch_size: int) -> None:
    """{"input", "predict", "target"} a line for every record of `path`, and the scores of all on stderr."""
    asked = read_asked(path, model)
    predictions = predict(model, asked, request, batch_size)
    if runtime.rank():
        return
    lines = [
        {"input": one.input, "predict": said, "target": one.target}
        for one, said in zip(asked, predictions, strict=True)
    ]
    write_lines(output, lines)
    known = [(line["predict"], line["target"]) for line in lines if line["target"]]
    found = scores(*zip(*known, strict=True)) if known else {}
    measured = "".join(f", {name} {value}" for name, value in found.items())
    print(f"{output}: {len(asked)} records, {len(known)} with an answer of their own{measured}", file=sys.stderr)


def write_lines(output: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """Write jsonl; what is half a character, and no text, becomes U+FFFD."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            whole = {name: without_surrogates(text) for name, text in line.items()}
            file.write(json.dumps(whole, ensure_ascii=False) + "\n")
