#!/usr/bin/env python
"""The whole workflow in under five minutes on two cores, on text that is on any machine.

Corpus, tokenizer, index, mixture, training with a kill and an exact resume on the way, conversion to Hugging Face,
generated text, and how well the model predicts text that it has not seen; then finetuning on questions and answers, of
all weights and by LoRA, and a talk in the terminal.

Everything is written below .quickstart/<n>/, a new number each time. The commands it runs are the ones of the README.
"""

import argparse
import ast
import collections
import contextlib
import json
import lzma
import math
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS.parent), str(TOOLS)]  # works without fm9g being installed, and from wherever it is run

from quickstart_common import ROOT, processes, shown, step, tool, training
from quickstart_finetuning import finetune

from fm9g.data.file_kinds import other_encoding
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError, run_command

ITERATIONS, SAVED_AT, KILLED_AFTER = 420, 140, 155
WEIGHTS = {"first": 0.6, "second": 0.4}
VOCABULARY, ROWS = 2048, 4  # ROWS in a step, shared by the processes
CORPUS_BYTES, LONGEST, PASSAGE = 4_000_000, 2000, 600
HELD_OUT_EVERY, HELD_OUT_BYTES = 10, 40_000  # records that are not trained on, of each dataset
PROMPTS, SAMPLED_TOKENS = 3, 100  # of each dataset


def new_folder() -> Path:
    """The next unused .quickstart/<n>."""
    base = ROOT / ".quickstart"
    base.mkdir(exist_ok=True)
    taken = [int(entry.name) for entry in base.iterdir() if entry.name.isdigit()]
    folder = base / str(max(taken, default=0) + 1)
    folder.mkdir()
    return folder


def library_texts() -> tuple[list[str], list[str]]:
    """Documentation strings of Python's standard library, and the source code of its functions."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    documentation: list[str] = []
    functions: list[str] = []
    for path in files:
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        with contextlib.suppress(UnicodeDecodeError, SyntaxError):  # a few are so on purpose
            text = path.read_text(encoding="utf-8")
            lines = text.splitlines()
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    documentation.append(ast.get_docstring(node) or "")
                if isinstance(node, ast.FunctionDef):
                    functions.append(textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])))
    return documentation, functions


def passages(text: str) -> Iterator[str]:
    """A text in pieces of about PASSAGE characters, without blank lines; cut at the ends of lines where it can be."""
    piece = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        for start in range(0, len(line), PASSAGE):
            piece += line[start : start + PASSAGE] + "\n"
            if len(piece) >= PASSAGE:
                yield piece.strip()
                piece = ""
    yield piece.strip()


def write_corpus(folder: Path, name: str, texts: Iterable[str]) -> None:
    """<name>.jsonl with records {"input": "", "output": text}, and held_out_<name>.json, a list of other texts."""
    held_out: list[str] = []
    count = written = kept = 0
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for text in texts:
            if written > CORPUS_BYTES:
                break
            if not 40 < len(text) < LONGEST:
                continue
            count += 1
            if count % HELD_OUT_EVERY == 0 and kept < HELD_OUT_BYTES:
                held_out.append(text)
                kept += len(text.encode())
            else:
                written += file.write(json.dumps({"input": "", "output": text}, ensure_ascii=False) + "\n")
    if len(held_out) < PROMPTS:
        raise UserError(f"{folder / name}.jsonl: {count} texts are too few for a corpus: give a longer TEXT")
    (folder / f"held_out_{name}.json").write_text(json.dumps(held_out))


def read_text(path: Path) -> str:
    """The user's text; UserError where it is in another encoding than UTF-8."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = other_encoding(shlex.quote(str(path)), content[: 1 << 20])
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; {remedy}") from None


def held_out(folder: Path, name: str) -> list[str]:
    """Texts of a dataset that are not trained on."""
    texts: list[str] = json.loads((folder / f"held_out_{name}.json").read_text())
    return texts


def prepare_data(folder: Path, text: str | None) -> None:
    """Corpus, tokenizer, two indexed datasets and their mixture."""
    documentation, functions = library_texts()
    if text:
        step(f"corpus: {text}, and the standard library's documentation")
        write_corpus(folder, "first", passages(read_text(Path(text))))
        write_corpus(folder, "second", documentation)
    else:
        step("corpus: documentation and source code of Python's standard library")
        write_corpus(folder, "first", documentation)
        write_corpus(folder, "second", functions)
    step("tokenizer: a byte-level BPE")
    corpora = [str(folder / f"{name}.jsonl") for name in WEIGHTS]
    tokenizer = str(folder / "tokenizer")
    tool(
        str(ROOT / "tools/train_tokenizer.py"),
        "--path",
        *corpora,
        "--vocab_size",
        str(VOCABULARY),
        "--output",
        tokenizer,
    )
    step("index: two datasets, mixed 0.6 to 0.4")
    for name in WEIGHTS:
        source, output = str(folder / f"{name}.jsonl"), str(folder / name)
        tool(str(ROOT / "tools/convert_json2index.py"), "--path", source, "--language", "en", "--output", output)
    mixture = [{"path": name, "abs_weight": weight, "task_name": name} for name, weight in WEIGHTS.items()]
    (folder / "mixture.json").write_text(json.dumps(mixture, indent=2) + "\n")


def train_command(folder: Path) -> list[str]:
    """run_bmtrain.sh with the settings of this run."""
    return training(
        "run_bmtrain.sh",
        config="quickstart",
        model_unique="quickstart",
        tokenizer_path=folder / "tokenizer",
        dataset_config=folder / "mixture.json",
        output_dir=folder / "data",
        n_gpus=processes(),
        batch_size=ROWS // processes(),
        train_iters=ITERATIONS,
        save_iters=SAVED_AT,
    )


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
    """Continue from the newest checkpoint to the end, and compare the iterations that ran twice."""
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([*train_command(folder), "--resume_ckpt", "latest"], env=environment, check=True)
    lines = metrics(folder)
    if [line["iteration"] for line in lines] != list(range(1, ITERATIONS + 1)):
        raise UserError("metrics.jsonl does not hold every iteration once")
    (killed,) = folder.glob("data/checkpoints/logs/quickstart/metrics.superseded-*.jsonl")
    twice = [json.loads(line) for line in killed.read_text().splitlines()]
    largest = max(abs(line["loss"] - lines[line["iteration"] - 1]["loss"]) for line in twice)
    first, last = twice[0]["iteration"], twice[-1]["iteration"]
    print(f"iterations {first} to {last} ran twice; the largest difference of their losses is {largest:g}", flush=True)
    if largest > 1e-4:
        raise UserError("the resumed run is not the run that was killed")


def bits_per_byte(nats: float, texts: list[str]) -> float:
    """Nats over all texts, in bits for each of their UTF-8 bytes."""
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def by_frequency(folder: Path, name: str) -> float:
    """Bits per byte of the held-out texts when each token is predicted by its frequency in the corpus alone."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        corpus = [json.loads(line)["output"] for line in file][::5]
    counts = collections.Counter(range(VOCABULARY))  # none is impossible
    for text in corpus:
        counts.update([*tokenizer.encode(text), tokenizer.eos_id])
    texts, total = held_out(folder, name), counts.total()
    tokens = [token for text in texts for token in [*tokenizer.encode(text), tokenizer.eos_id]]
    return bits_per_byte(sum(-math.log(counts[token] / total) for token in tokens), texts)


def by_model(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Bits per byte of texts under a model of transformers; each text begins and ends as in training."""
    import torch

    nats = 0.0
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])[:, :1024]
            nats += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
    return bits_per_byte(nats, texts)


def generate(model: Any, tokenizer: Any, texts: list[str]) -> None:
    """Let transformers continue the beginnings of a few texts."""
    import torch

    torch.manual_seed(0)
    for text in texts[:: len(texts) // PROMPTS][:PROMPTS]:
        prompt = " ".join(text.strip().splitlines()[0].split()[:4])[:40]
        inputs = tokenizer(prompt, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        output = model.generate(
            **inputs, max_new_tokens=SAMPLED_TOKENS, do_sample=True, temperature=0.7, top_k=40, top_p=0.9
        )
        continued = tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        lines = [line for line in f"[{prompt}]{continued}".splitlines() if line.strip()]
        print(textwrap.indent("\n".join(lines), "    "), end="\n\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a UTF-8 text file to train on")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.text and not Path(arguments.text).is_file():
        raise UserError(f"{arguments.text}: no such file")
    folder, started = new_folder(), time.perf_counter()
    prepare_data(folder, arguments.text)
    step(f"train: {ITERATIONS} iterations of a small model; it will be killed on the way")
    print(f"$ {shown(train_command(folder))}", flush=True)
    train_and_kill(folder)
    step("resume the newest checkpoint")
    resume(folder)
    step("convert to Hugging Face")
    checkpoint = folder / f"data/checkpoints/quickstart/{ITERATIONS}/fm9g_live_checkpoint-{ITERATIONS}.pt"
    converted = folder / "huggingface"
    tool(
        *(str(ROOT / "tools/bmtrain_2_hgface.py"), "--model-config", str(ROOT / "model_configs/quickstart.json")),
        *("--tokenizer", str(folder / "tokenizer"), "--bmtrain-ckpt-path", str(checkpoint)),
        *("--huggingface-save-dir", str(converted)),
    )
    show(folder, converted)
    finetune(folder, checkpoint)
    step("done")
    board, seconds = os.path.relpath(folder / "data/tensorboard"), time.perf_counter() - started
    print(f"in {seconds:.0f} s")
    print(f"curves:  .venv/bin/tensorboard --logdir {board}")
    print(f"model:   {os.path.relpath(converted)}")
    chat = os.path.relpath(folder / "data/checkpoints/full")
    print(f"to talk: .venv/bin/python tools/generate.py --model {chat} --chat")


def show(folder: Path, converted: Path) -> None:
    """Show what the model writes, and how well it predicts; a UserError if training did not learn."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(converted), AutoTokenizer.from_pretrained(converted)
    step("transformers continues texts that were not trained on; [the beginning] is theirs")
    for name in WEIGHTS:
        generate(model, tokenizer, held_out(folder, name))
    step("texts that were not trained on")
    lines = metrics(folder)
    print(f"loss {lines[0]['loss']:.2f} -> {sum(line['loss'] for line in lines[-20:]) / 20:.2f} nats per token")
    print("bits per byte of text that was not trained on:")
    print(f"    {'':8}{'frequency':>12}{'zlib':>8}{'xz':>8}{'model':>8}")
    for name in WEIGHTS:
        texts = held_out(folder, name)
        data = "\n".join(texts).encode()
        frequency, mine = by_frequency(folder, name), by_model(model, tokenizer, texts)
        zipped, xz = (8 * len(packed) / len(data) for packed in (zlib.compress(data, 9), lzma.compress(data)))
        print(f"    {name:8}{frequency:12.2f}{zipped:8.2f}{xz:8.2f}{mine:8.2f}", flush=True)
        if mine > 0.9 * frequency:
            raise UserError("the model is not well below the frequency of tokens: something is wrong here")


if __name__ == "__main__":
    run_command(main)
