#!/usr/bin/env python
"""Fixed runs, to show that a change of the code leaves what is read and learned as it was.

    python benchmarks/fixed_runs.py                      # what they give
    python benchmarks/fixed_runs.py --against HEAD~1     # beside what another commit gives, on the same machine

Three runs of a tiny model on a CPU: one dataset; two datasets, read by workers, in fp16; and one on two ranks that is
resumed on one. Of each the table has the digest of the records read (stream_sha256), of all losses, and of each kind of
the last checkpoint's files. With --against it ends with status 1 where any differ.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import ROOT, tree_of

WORDS = "the tiny model reads words and learns to guess which of them comes next 月 光 明"
MODEL = {
    "vocab_size": 320,
    "dim_model": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "dim_head": 16,
    "dim_ff": 48,
    "num_layers": 2,
    "max_length": 128,
}
STEPS, HALF = 12, 6
CHECKPOINT_FILES = {
    "weights": "fm9g_live_checkpoint-*.pt",
    "optimizer": "optimizer-*.pt",
    "data": "data-*.pt",
    "random": "random-*.pt",
}


def make_inputs(folder: Path) -> None:
    """Two jsonl files and the configs, the same each time."""
    chance = random.Random(1)
    texts = [" ".join(chance.choices(WORDS.split(), k=chance.randint(1, 60))) for _ in range(200)]
    prose = [{"input": "", "output": text} for text in texts]
    sums = [(chance.randrange(100), chance.randrange(100)) for _ in range(80)]
    questions = [{"input": f"{a} plus {b}?", "output": f"{a + b}"} for a, b in sums]
    for name, records in (("prose", prose), ("questions", questions)):
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    entries = [
        {"path": "prose", "abs_weight": 0.7, "task_name": "prose"},
        {"path": "questions", "abs_weight": 0.3, "task_name": "questions", "max_epochs": 3},
    ]
    (folder / "one.json").write_text(json.dumps(entries[:1]))
    (folder / "two.json").write_text(json.dumps(entries))
    (folder / "model_configs").mkdir()
    for dtype in ("float32", "fp16"):
        (folder / f"model_configs/{dtype}.json").write_text(json.dumps({**MODEL, "dtype": dtype}))


def call(tree: Path, folder: Path, *words: object) -> None:
    """Run a Python program of `tree`; its output is shown where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "FM9G_BACKEND": "cpu"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def train(tree: Path, folder: Path, name: str, mixture: str, **settings: object) -> None:
    """A run by the tree's launcher."""
    given = {
        "config": folder / "model_configs/float32.json",
        "tokenizer_path": folder / "tokenizer",
        "dataset_config": folder / f"{mixture}.json",
        "output_dir": folder / "out",
        "model_unique": name,
        "n_gpus": 1,
        "max_length": 64,
        "batch_size": 1,
        "grad_accum": 4,
        "train_iters": STEPS,
        "warmup_iters": 2,
        "lr": 3e-3,
        "save_iters": HALF,
        "inspect_iters": 0,
        "dataloader_num_workers": 0,
        "seed": 5,
        **settings,
    }
    app = tree / "apps/fm9g_7b"
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    call(tree, folder, app / "launch.py", app / "pretrain.py", *words)


def found(folder: Path, name: str) -> dict[str, str]:
    """The digests of a run's last step."""
    step = folder / "out/checkpoints" / name / str(STEPS)
    metrics = (folder / "out/checkpoints/logs" / name / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in metrics]
    assert len(losses) == STEPS
    files = {}
    for kind, pattern in CHECKPOINT_FILES.items():
        contents = [path.name.encode() + path.read_bytes() for path in sorted(step.glob(pattern))]
        assert contents
        files[kind] = hashlib.sha256(b"".join(contents)).hexdigest()
    return {
        "stream": json.loads((step / "state.json").read_text())["progress"]["stream_sha256"],
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest(),
        **files,
        "last loss": f"{losses[-1]:.6f}",
    }


def run_all(tree: Path, folder: Path) -> dict[str, dict[str, str]]:
    """The fixed runs with the code of `tree`."""
    make_inputs(folder)
    for name in ("prose", "questions"):
        words = ("--path", f"{name}.jsonl", "--language", "en", "--output", name)
        call(tree, folder, tree / "tools/convert_json2index.py", *words)
    texts = ("--path", "prose.jsonl", "questions.jsonl", "--vocab-size", 300, "--output", "tokenizer")
    call(tree, folder, tree / "tools/train_tokenizer.py", *texts)
    train(tree, folder, "one", "one")
    train(tree, folder, "two", "two", config=folder / "model_configs/fp16.json", dataloader_num_workers=2)
    train(tree, folder, "resumed", "two", n_gpus=2, grad_accum=2)
    train(tree, folder, "resumed", "two", resume_ckpt=HALF)
    names = {"one": "one dataset", "two": "two datasets, fp16, workers", "resumed": "two ranks, resumed on one"}
    return {title: found(folder, name) for name, title in names.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="a commit of this repository to compare with")
    against = parser.parse_args().against
    with tempfile.TemporaryDirectory(prefix="fixed_runs.") as temporary:
        # the same folder for both: its path may be in what is saved
        results, work = [], Path(temporary) / "work"
        for tree in [ROOT, *([tree_of(against, Path(temporary) / "tree")] if against else [])]:
            work.mkdir()
            results.append(run_all(tree, work))
            work.rename(Path(temporary) / f"done-{len(results)}")
    same = True
    for title, ours in results[0].items():
        print(title)
        for what, value in ours.items():
            others = [result[title][what] for result in results[1:]]
            same &= all(other == value for other in others)
            note = "".join(", the same" if other == value else f", but {other[:16]} before" for other in others)
            print(f"    {what:11} {value[:16]}{note}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
