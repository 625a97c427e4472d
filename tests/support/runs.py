"""A tiny corpus, tokenizer, mixture and model, and the ways to start runs on them.

place = Place.make(tmp_path_factory.mktemp("place"))
run = train_here(place, tmp_path, train_iters=3)          # in this process, one rank
process = start_app(place, tmp_path, n_gpus=2)            # bash run_bmtrain.sh, as a user would
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.data.index.build import build
from fm9g.data.tokens.training import save_tokenizer, train_tokenizer
from tests.support.ranks import REPOSITORY, Finished, finish, start

APP = REPOSITORY / "apps/fm9g_7b"
SCRIPT = APP / "run_bmtrain.sh"
PROSE_RECORDS, QUESTION_RECORDS = 120, 50
MODEL = {
    "vocab_size": 320,
    "dim_model": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "dim_head": 16,
    "dim_ff": 48,
    "num_layers": 2,
    "dtype": "float32",
    "max_length": 128,
    "tie_lm_head": False,
}
# small enough for many runs, big enough that every part takes part: two micro-steps, documents cut at row ends
SETTINGS: dict[str, object] = {
    "model_unique": "u",
    "n_gpus": 1,
    "max_length": 64,
    "batch_size": 1,
    "grad_accum": 2,
    "train_iters": 4,
    "warmup_iters": 2,
    "lr": 3e-3,
    "save_iters": 100,
    "inspect_iters": 0,
    "dataloader_num_workers": 0,
    "seed": 5,
}


def write_jsonl(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def index(folder: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """An indexed dataset of the records at `folder`."""
    source = write_jsonl(folder.with_name(folder.name + ".jsonl"), records)
    build(source, folder, "en")
    return folder


def prose_records(count: int = PROSE_RECORDS) -> list[dict[str, str]]:
    """Texts of 1 to 60 words over a small vocabulary; every one of them differs."""
    r = random.Random(1)
    words = [
        "the",
        "a",
        "tiny",
        "model",
        "reads",
        "words",
        "and",
        "learns",
        "to",
        "guess",
        "which",
        "of",
        "them",
        "comes",
        "next",
        "月",
        "光",
    ]
    return [{"input": "", "output": f"{i} " + " ".join(r.choices(words, k=r.randint(1, 60)))} for i in range(count)]


def question_records(count: int = QUESTION_RECORDS) -> list[dict[str, str]]:
    """Short questions with their answers."""
    r = random.Random(2)
    pairs = [(r.randrange(100), r.randrange(100)) for _ in range(count)]
    return [{"input": f"{i}: {a} plus {b}?", "output": f"{a + b}"} for i, (a, b) in enumerate(pairs)]


@dataclass(frozen=True)
class Place:
    """A folder with data, tokenizer, mixture and configs. `mixture` holds prose to questions 0.7 to 0.3 of tokens."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Place:
        """Write all of it."""
        index(root / "prose", prose_records())
        index(root / "questions", question_records())
        save_tokenizer(
            train_tokenizer([root / "prose.jsonl", root / "questions.jsonl"], 300), _made(root / "tokenizer")
        )
        place = cls(root)
        place.write_mixture("mixture", [{"path": "prose", "abs_weight": 0.7}, {"path": "questions", "abs_weight": 0.3}])
        place.write_model("tiny")
        return place

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def mixture(self) -> Path:
        return self.root / "mixture.json"

    @property
    def config(self) -> Path:
        return self.root / "model_configs/tiny.json"

    def write_mixture(self, name: str, entries: Sequence[Mapping[str, Any]]) -> Path:
        """<name>.json; an entry's task_name is its path unless it says another."""
        path = self.root / f"{name}.json"
        path.write_text(json.dumps([{"task_name": str(entry["path"]), **entry} for entry in entries]), encoding="utf-8")
        return path

    def write_model(self, name: str, **changes: object) -> Path:
        """model_configs/<name>.json: MODEL with changes."""
        path = _made(self.root / "model_configs") / f"{name}.json"
        path.write_text(json.dumps({**MODEL, **changes}), encoding="utf-8")
        return path

    def words(self, output: Path, **changes: object) -> list[str]:
        """The command line of a run that writes to `output`; a setting that is None is left out."""
        settings = {
            "config": self.config,
            "tokenizer_path": self.tokenizer,
            "dataset_config": self.mixture,
            "output_dir": output,
            **SETTINGS,
            **changes,
        }
        return [word for key, value in settings.items() if value is not None for word in (f"--{key}", str(value))]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Output:
    """What a run named `name` left under its output_dir."""

    root: Path
    name: str = "u"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints" / self.name

    @property
    def metrics_file(self) -> Path:
        return self.root / "checkpoints/logs" / self.name / "metrics.jsonl"

    def metrics(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl."""
        if not self.metrics_file.exists():
            return []
        with self.metrics_file.open(encoding="utf-8", newline="\n") as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics()]

    def learned(self) -> list[tuple[Any, ...]]:
        """What must not differ, bit for bit, between a run and one killed and resumed: a tuple for each iteration."""
        keys = ("iteration", "loss", "grad_norm", "lr", "tokens", "task_loss", "task_tokens", "loss_scale")
        return [tuple(line[key] for key in keys) for line in self.metrics()]

    def latest(self) -> int:
        return int((self.checkpoints / "latest").read_text())

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there."""
        if not self.checkpoints.exists():
            return []
        return sorted(int(entry.name) for entry in self.checkpoints.iterdir() if entry.name.isdigit())

    def state(self, step: int) -> dict[str, Any]:
        """state.json of a checkpoint."""
        return json.loads((self.checkpoints / str(step) / "state.json").read_text())

    def progress(self, step: int) -> dict[str, Any]:
        """Counters and stream_sha256 of a checkpoint."""
        return self.state(step)["progress"]

    def weights(self, step: int) -> dict[str, Any]:
        """The weights of a checkpoint."""
        import torch

        return torch.load(self.checkpoints / str(step) / f"fm9g_live_checkpoint-{step}.pt", weights_only=True)

    def optimizer(self, step: int) -> dict[str, dict[str, Any]]:
        """{name: {step, moment: flat tensor}} of a checkpoint, put together from the files of all ranks."""
        import torch

        whole: dict[str, dict[str, Any]] = {}
        for path in sorted((self.checkpoints / str(step)).glob("optimizer-*.pt")):
            for name, piece in sorted(torch.load(path, weights_only=True).items()):
                whole.setdefault(name, {})[piece["start"]] = piece
        merged = {}
        for name, pieces in whole.items():
            ordered = [pieces[start] for start in sorted(pieces)]
            merged[name] = {
                key: torch.cat([piece[key] for piece in ordered])
                for key in ordered[0]
                if isinstance(ordered[0][key], torch.Tensor)
            }
            merged[name]["step"] = {piece["step"] for piece in ordered}
        return merged

    def events(self) -> dict[str, list[tuple[int, float]]]:
        """{tag: [(step, value)]} of the TensorBoard scalars under this output_dir."""
        from tensorboardX.proto.event_pb2 import Event

        scalars: dict[str, list[tuple[int, float]]] = {}
        for path in sorted(self.root.glob("tensorboard/**/events.*")):
            for record in _tensorboard_records(path.read_bytes()):
                event = Event.FromString(record)
                for value in event.summary.value:
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
        return scalars


def _tensorboard_records(content: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(content):  # length (8 bytes), its checksum (4), the record, its checksum (4)
        length = int.from_bytes(content[place : place + 8], "little")
        yield content[place + 12 : place + 12 + length]
        place += 16 + length


@dataclass(frozen=True)
class Ended(Output):
    """A run in this process that came to its end, and what it printed."""

    log: str = ""


def train_here(place: Place, output: Path, **changes: object) -> Ended:
    """A run of one rank in this process, from its command line to its end. UserErrors come as they are.

    It starts from the same random state as a process of its own would. Needs the fixture `single_rank`.
    """
    return run_words_here(place.words(output, **changes), output, str(changes.get("model_unique", "u")))


def run_words_here(words: list[str], output: Path, name: str = "u") -> Ended:
    """Like train_here, with the words of a whole command line."""
    import torch

    from fm9g import runtime
    from fm9g.errors import UserError
    from fm9g.training import trainer
    from fm9g.training.inputs import open_inputs
    from fm9g.training.settings import read_settings

    torch.set_num_threads(1)  # as ranks have; several threads on a busy machine wait for each other
    printed = io.StringIO()
    initialize = runtime.initialize
    runtime.initialize = _seed
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            trainer.run(open_inputs(read_settings(words), APP))
    except UserError as error:
        raise error.with_traceback(None) from None  # its frames would keep the run's lock
    finally:
        runtime.initialize = initialize
    return Ended(output, name, printed.getvalue())


def command_here(words: Sequence[str], table: str = "") -> Finished:
    """What pretrain.py would do in a process of its own with one rank: its exit status and its stderr."""
    from fm9g import runtime
    from fm9g.errors import run_command

    main = load_program("pretrain").main
    errors, printed = io.StringIO(), io.StringIO()
    before, initialize = sys.argv, runtime.initialize
    sys.argv, runtime.initialize, status = ["pretrain.py", *words], _seed, 0
    os.environ["FM9G_ARGS_TABLE"] = table
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            run_command(main)
    except SystemExit as exit:
        status = int(exit.code or 0)
    finally:
        sys.argv, runtime.initialize = before, initialize
        del os.environ["FM9G_ARGS_TABLE"]
    gc.collect()  # a run that failed is in a cycle with its error, and holds its lock
    return Finished(status, errors.getvalue() if status else printed.getvalue())


def load_program(name: str) -> Any:
    """apps/fm9g_7b/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(f"app_{name}", APP / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def training_here(place: Place, output: Path, **changes: object) -> Iterator[Any]:
    """A fm9g.training.trainer.Training of this process before its first step; its log is not shown."""
    import torch

    from fm9g.training.inputs import open_inputs
    from fm9g.training.settings import read_settings
    from fm9g.training.trainer import Training

    torch.set_num_threads(1)
    settings = read_settings(place.words(output, **changes))
    _seed(settings.seed)
    with contextlib.redirect_stdout(io.StringIO()):
        run = Training(open_inputs(settings, APP))
        try:
            yield run
        finally:
            run._lock.close()
            run._writer.close()


def _seed(seed: int = 0, tp_size: int = 1) -> None:
    import numpy as np
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This Python for run_bmtrain.sh, and threads that do not spin while they wait, since tests share their cores."""
    return {"PYTHON": sys.executable, "OMP_WAIT_POLICY": "PASSIVE", **(changes or {})}


def start_app(
    words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, script: Path = SCRIPT
) -> subprocess.Popen[str]:
    """`bash run_bmtrain.sh …` started from `folder`."""
    return start(["bash", str(script), *words], _environment(env), folder)


def run_app(words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, timeout: float = 120) -> Finished:
    """`bash run_bmtrain.sh …` to its end."""
    return finish(start_app(words, folder, env), timeout)


def start_program(
    program: Path, words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A program in place of pretrain.py, one process for each rank as n_gpus says."""
    return start([sys.executable, str(APP / "launch.py"), str(program), *words], _environment(env), folder)


def run_killed(words: Sequence[str], folder: Path, iteration: int) -> None:
    """A run whose processes are all killed right after it has written the metrics of an iteration."""
    program = REPOSITORY / "tests/support/pausing_pretrain.py"
    process = start_program(program, words, folder, {"FM9G_TEST_PAUSE": str(iteration)})
    output = Output(Path(words[words.index("--output_dir") + 1]))
    wait_until(lambda: len(output.metrics()) == iteration or process.poll() is not None, f"iteration {iteration}", 120)
    if process.poll() is not None:
        raise AssertionError(f"the run ended by itself:\n{finish(process).output}")
    kill_all(process)
    assert [line["iteration"] for line in output.metrics()] == list(range(1, iteration + 1))


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60) -> None:
    """Wait for a condition; AssertionError naming it after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The processes started by a process, directly or not, by their numbers."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        mine = children.get(queue.pop(), [])
        found += mine
        queue += mine
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process and all it started, at once, as when the machine loses power."""
    members = [process.pid, *descendants(process.pid)]
    for pid in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    wait_until(lambda: not any(map(is_alive, members)), "the end of all killed processes")


def copy_output(output: Output, target: Path) -> Output:
    """A run's folders at another place, to go on from there."""
    shutil.copytree(output.root, target)
    return Output(target, output.name)
