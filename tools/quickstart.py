#!/usr/bin/env python
"""The whole workflow in a few minutes, on text that is on any machine.

Corpus, tokenizer, index, mixture, training with a kill and a resume on the way, conversion to Hugging Face, generated
text.

Everything is written below .quickstart/<n>/, a new number each time. The commands it runs are the ones of the README.
"""

import argparse
import ast
import collections
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without fm9g being installed

from fm9g.data.index import IndexedDataset
from fm9g.data.tokenizer import load_tokenizer
from fm9g.errors import UserError, run_command

ITERATIONS, SAVED_AT, KILLED_AFTER = 300, 100, 120
WEIGHTS = {"first": 0.7, "second": 0.3}
CORPUS_BYTES = 6_000_000
SAMPLED_RECORDS = 1500


def new_folder() -> Path:
    """The next unused .quickstart/<n>."""
    base = ROOT / ".quickstart"
    base.mkdir(exist_ok=True)
    taken = [int(entry.name) for entry in base.iterdir() if entry.name.isdigit()]
    folder = base / str(max(taken, default=0) + 1)
    folder.mkdir()
    return folder


def step(title: str) -> None:
    """Announce a step."""
    print(f"\n== {title}", flush=True)


def tool(*words: str) -> None:
    """Run a command of the workflow, shown as a user would type it."""
    print("$ python " + " ".join(os.path.relpath(word) if word.startswith("/") else word for word in words), flush=True)
    subprocess.run([sys.executable, *words], check=True)


def library_texts() -> tuple[Iterator[str], Iterator[str]]:
    """Documentation strings and source code of Python's standard library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    sources = [path for path in files if not {"site-packages", "test", "tests", "idlelib"} & set(path.parts)]

    def code() -> Iterator[str]:
        for path in sources:
            with contextlib.suppress(UnicodeDecodeError):  # a few are in other encodings on purpose
                yield path.read_text(encoding="utf-8")

    def documentation() -> Iterator[str]:
        for text in code():
            with contextlib.suppress(SyntaxError):  # and a few are templates
                for node in ast.walk(ast.parse(text)):
                    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                        yield ast.get_docstring(node) or ""

    return documentation(), code()


def write_corpus(path: Path, texts: Iterator[str]) -> None:
    """jsonl records {"input": "", "output": text} up to CORPUS_BYTES."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            if len(text) > 40 and written < CORPUS_BYTES:
                written += file.write(json.dumps({"input": "", "output": text}, ensure_ascii=False) + "\n")
    if not written:
        raise UserError(f"{path}: no text found for the corpus")


def prepare_data(folder: Path, text: str | None) -> None:
    """Corpus, tokenizer, two indexed datasets and their mixture."""
    documentation, code = library_texts()
    if text:
        step(f"corpus: {text}, and the standard library's documentation")
        lines = [line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip()]
        paragraphs = ("\n".join(lines[i : i + 8]) for i in range(0, len(lines), 8))
        write_corpus(folder / "first.jsonl", paragraphs)
        write_corpus(folder / "second.jsonl", documentation)
    else:
        step("corpus: documentation and source code of Python's standard library")
        write_corpus(folder / "first.jsonl", documentation)
        write_corpus(folder / "second.jsonl", code)
    step("tokenizer: a byte-level BPE")
    corpora = [str(folder / f"{name}.jsonl") for name in WEIGHTS]
    tokenizer = str(folder / "tokenizer")
    tool(str(ROOT / "tools/train_tokenizer.py"), "--path", *corpora, "--vocab_size", "4096", "--output", tokenizer)
    step("index: two datasets, mixed 0.7 to 0.3")
    for name in WEIGHTS:
        source, output = str(folder / f"{name}.jsonl"), str(folder / name)
        tool(str(ROOT / "tools/convert_json2index.py"), "--path", source, "--language", "en", "--output", output)
    mixture = [{"path": name, "abs_weight": weight, "task_name": name} for name, weight in WEIGHTS.items()]
    (folder / "mixture.json").write_text(json.dumps(mixture, indent=2) + "\n")


def train_command(folder: Path) -> list[str]:
    """run_bmtrain.sh with the settings of this run."""
    settings = {
        "config": "tiny",
        "model_unique": "quickstart",
        "tokenizer_path": folder / "tokenizer",
        "dataset_config": folder / "mixture.json",
        "output_dir": folder / "data",
        "n_gpus": 1,
        "train_iters": ITERATIONS,
        "save_iters": SAVED_AT,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["bash", str(ROOT / "apps/fm9g_7b/run_bmtrain.sh"), *words]


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl that are complete."""
    path = folder / "data/checkpoints/logs/quickstart/metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def train_and_kill(folder: Path) -> None:
    """Train past the first checkpoint, then kill the whole process group as a power cut would."""
    environment = {**os.environ, "PYTHON": sys.executable}
    process = subprocess.Popen(train_command(folder), env=environment, start_new_session=True)
    try:
        while len(metrics(folder)) < KILLED_AFTER:
            if process.poll() is not None:
                raise UserError(f"training ended early with exit status {process.returncode}")
            time.sleep(0.2)
    finally:  # also where this script is interrupted
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    time.sleep(2)  # the ranks see within a second that their launcher is gone
    print(f"killed after iteration {len(metrics(folder))}", flush=True)


def resume(folder: Path) -> None:
    """Continue from the newest checkpoint to the end."""
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([*train_command(folder), "--resume_ckpt", "latest"], env=environment, check=True)


def unigram_entropy(folder: Path) -> float:
    """Nats per token of the mixture when every token is drawn by its frequency alone."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    mixed: collections.Counter[int] = collections.Counter()
    for name, weight in WEIGHTS.items():
        dataset = IndexedDataset(folder / name)
        stride = max(1, len(dataset) // SAMPLED_RECORDS)
        counts: collections.Counter[int] = collections.Counter()
        for i in range(0, len(dataset), stride):
            counts.update([*tokenizer.encode(dataset.record(i)["output"]), tokenizer.eos_id])
        for token, count in counts.items():
            mixed[token] += weight * count / counts.total()  # type: ignore[assignment]
    return -sum(share * math.log(share) for share in mixed.values())


def generate(model_folder: Path) -> None:
    """Let transformers continue a few words with the converted model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder)
    for prompt in ("Return the", "This function"):
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        output = model.generate(**inputs, max_new_tokens=32, do_sample=False, repetition_penalty=1.3)
        print(f"  {tokenizer.decode(output[0], skip_special_tokens=True)!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a UTF-8 text file to train on")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.text and not Path(arguments.text).is_file():
        raise UserError(f"{arguments.text}: no such file")
    folder, started = new_folder(), time.perf_counter()
    prepare_data(folder, arguments.text)
    step(f"train: {ITERATIONS} iterations of the tiny model; it will be killed on the way")
    print("$ " + " ".join(os.path.relpath(w) if w.startswith("/") else w for w in train_command(folder)), flush=True)
    train_and_kill(folder)
    step("resume the newest checkpoint")
    resume(folder)
    step("convert to Hugging Face")
    checkpoint = folder / f"data/checkpoints/quickstart/{ITERATIONS}/fm9g_live_checkpoint-{ITERATIONS}.pt"
    converted = folder / "huggingface"
    tool(
        *(str(ROOT / "tools/bmtrain_2_hgface.py"), "--model-config", str(ROOT / "model_configs/tiny.json")),
        *("--tokenizer", str(folder / "tokenizer"), "--bmtrain-ckpt-path", str(checkpoint)),
        *("--huggingface-save-dir", str(converted)),
    )
    step("text from transformers")
    generate(converted)
    conclude(folder, time.perf_counter() - started)


def conclude(folder: Path, seconds: float) -> None:
    """Say what was reached; a UserError if training did not learn."""
    lines = metrics(folder)
    if [line["iteration"] for line in lines] != list(range(1, ITERATIONS + 1)):
        raise UserError("metrics.jsonl does not hold every iteration once")
    final = sum(line["loss"] for line in lines[-20:]) / 20
    entropy = unigram_entropy(folder)
    step("done")
    print(f"loss {lines[0]['loss']:.3f} -> {final:.3f} nats per token, in {seconds:.0f} s")
    print(f"unigram entropy of the corpus: {entropy:.3f} nats per token")
    if final > entropy - 0.3:
        raise UserError("the loss is not well below the unigram entropy: something is wrong with this installation")
    print("the loss is well below it: the model uses context")
    board = os.path.relpath(folder / "data/tensorboard")
    print(f"curves:  .venv/bin/tensorboard --logdir {board}")
    print(f"model:   {os.path.relpath(folder / 'huggingface')}")


if __name__ == "__main__":
    run_command(main)
