"""The quickstart's last part: the model learns to answer questions, all of it and by LoRA, and answers some."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quickstart_common import ROOT, processes, shown, step, tool, training

from fm9g.errors import UserError

ROWS = 4  # in a step, shared by the processes
HELD_OUT = 0.1  # of the questions
RUNS = {  # name: (script, iterations, learning rate)
    "full": ("run_bmtrain.sh", 280, 4e-3),
    "lora": ("run_bmtrain_lora.sh", 120, 1e-2),
}
TEMPLATE = {
    "begin": [{"token": "bos"}],
    "user": ["Question: ", "{content}", "\n"],
    "prompt": ["Answer:"],
    "assistant": [" ", "{content}", {"token": "eos"}, "\n"],
}
ASKED = 3
LEARNED = 0.3  # nats a token at least, below the loss of the model before
_SHORTEST, _LONGEST = 15, 120


def questions() -> Iterator[dict[str, str]]:
    """What the public functions and classes of Python's standard library are, by the first sentences of their
    documentation."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*library.glob("[a-z]*.py"), *library.glob("[a-z]*/__init__.py")]):
        module = path.stem if path.stem != "__init__" else path.parent.name
        with contextlib.suppress(UnicodeDecodeError, SyntaxError):  # a few are so on purpose
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    answer = _first_sentence(ast.get_docstring(node) or "")
                    if _SHORTEST < len(answer) < _LONGEST:
                        kind = "What is {}?" if isinstance(node, ast.ClassDef) else "What does {} do?"
                        yield {"instruction": kind.format(f"{module}.{node.name}"), "output": answer}


def _first_sentence(text: str) -> str:
    first = re.split(r"(?<=\.)\s", " ".join(text.partition("\n\n")[0].split()))[0]
    return first if first.endswith(".") else f"{first}."


def finetune(folder: Path, weights: Path) -> None:
    """Both runs from `weights`, what they came to, and some answers."""
    step("questions and answers: what Python's functions and classes are, from their documentation")
    _prepare(folder)
    for name, (script, iterations, rate) in RUNS.items():
        step(f"finetune: {'all weights' if name == 'full' else 'adapters of low rank beside them (LoRA)'}")
        command = training(
            script,
            config="quickstart",
            model_unique=name,
            tokenizer_path=folder / "tokenizer",
            dataset_config=folder / "chat.json",
            output_dir=folder / "data",
            pretrained_model=weights,
            n_gpus=processes(),
            batch_size=ROWS // processes(),
            max_length=256,
            train_iters=iterations,
            lr=rate,
            validation_split=HELD_OUT,
            eval_interval=iterations // 4,
            save_iters=iterations,
            log_iters=iterations // 4,
        )
        before = _before(command)
    _compare(folder, before)
    step("the finetuned model answers questions in the terminal")
    asked = [record["conversations"] for record in _records(folder)]
    chosen = asked[:: len(asked) // ASKED][:ASKED]
    typed = "".join(f"{turns[0]['value']}\n/clear\n" for turns in chosen)
    words = ["--model", str(folder / "data/checkpoints/full"), "--max_new_tokens", "48", "--chat"]
    tool(str(ROOT / "tools/generate.py"), *words, asked=typed)
    for turns in chosen:
        print(f"its documentation: {turns[1]['value']}", flush=True)


def _before(command: list[str]) -> tuple[float, float]:
    """Run a training that prints what it does; held-out loss and accuracy of what it begins with."""
    print(f"$ {shown(command)}", flush=True)
    environment = {**os.environ, "PYTHON": sys.executable}
    found: tuple[float, float] | None = None
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if match := re.match(r"iter 0: held-out loss ([\d.]+),.* accuracy ([\d.]+)", line):
                found = float(match[1]), float(match[2])
    if process.returncode or found is None:
        raise UserError(f"training ended with exit status {process.returncode}")
    return found


def _prepare(folder: Path) -> None:
    """Questions as indexed conversations, and the mixture of them."""
    (folder / "questions.json").write_text(json.dumps(list(questions())))
    source, chats = str(folder / "questions.json"), str(folder / "chats.jsonl")
    tool(
        *(str(ROOT / "tools/convert_to_conv_data.py"), "--orig_data", source, "--write_data", chats),
        *("--dataset_name", "python"),
    )
    index = ("--path", chats, "--language", "en", "--output", str(folder / "chats"))
    tool(str(ROOT / "tools/convert_json2index.py"), *index)
    (folder / "questions_template.json").write_text(json.dumps(TEMPLATE))
    entry = {"path": "chats", "abs_weight": 1, "task_name": "chats"}
    entry |= {"format": "chat", "template": "questions_template.json"}
    (folder / "chat.json").write_text(json.dumps([entry], indent=2) + "\n")


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "chats.jsonl").read_text(encoding="utf-8").splitlines()]


def _compare(folder: Path, before: tuple[float, float]) -> None:
    """What was learned, and what it cost; UserError where a run did not learn."""
    step("questions that were not trained on")
    logs = {name: folder / "data/checkpoints/logs" / name for name in RUNS}
    print(f"    {'':8}{'loss':>8}{'perplexity':>12}{'accuracy':>10}{'checkpoint':>13}")
    loss, accuracy = before
    print(f"    {'before':8}{loss:8.2f}{math.exp(loss):12.1f}{accuracy:10.0%}")
    for name, path in logs.items():
        found = json.loads((path / "eval_results.json").read_text())
        (weights,) = (folder / f"data/checkpoints/{name}").glob("*/fm9g_live_checkpoint-*.pt")
        size = f"{weights.stat().st_size / 1e6:.1f} MB"
        measured = f"{found['eval_loss']:8.2f}{found['perplexity']:12.1f}{found['eval_accuracy']:10.0%}"
        print(f"    {name:8}{measured}{size:>13}", flush=True)
        if found["eval_loss"] > loss - LEARNED:
            raise UserError(f"the run {name} did not learn to answer: something is wrong here")
