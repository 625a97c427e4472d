"""run_bmtrain.sbatch as Slurm runs it: with an srun and an scontrol of our own, whose nodes are all this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from fm9g import launcher
from tests.support.outputs import Output
from tests.support.processes import wait_until
from tests.support.ranks import REPOSITORY, finish, start
from tests.support.runs_here import APP

NODES = 2
# starts the command once for each node, gives signals to all that it has started, and ends with the highest status
SRUN = """
import os, signal, subprocess, sys
from tests.support.processes import descendants

command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
nodes = range(int(os.environ["SLURM_NNODES"]))
tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)}) for node in nodes]

def forward(number, frame):
    for task in tasks:
        for pid in (task.pid, *descendants(task.pid)):
            os.kill(pid, number)

signal.signal(signal.SIGUSR1, forward)
statuses = [task.wait() for task in tasks]
sys.exit(max(status if status >= 0 else 128 - status for status in statuses))
"""
SCONTROL = """
import os, sys

if sys.argv[1:] == ["show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]:
    print("127.0.0.1\\nnode-of-no-job")
else:
    with open(os.environ["SCONTROL_LOG"], "a") as log:
        print(*sys.argv[1:], file=log)
"""
# in place of run_bmtrain.sh: says what it is given, and ends as it is told, or when it is signalled
STUB = """
trap 'exit 75' USR1
echo "node $RANK of $NNODES at $MASTER_ENDPOINT:$MASTER_PORT, $GPUS_PER_NODE ranks: $*"
if [ "$1" = wait ]; then touch "$2.$RANK"; while sleep 0.05; do [ ! -e "$2" ] || exit 75; done; fi
exit $1
"""


def free_job() -> int:
    """A job's number whose port is free just now."""
    for job in range(4_711, 14_711):
        with socket.socket() as probe:
            try:
                probe.bind(("", 20_000 + job % 10_000))
            except OSError:
                continue
            return job
    raise AssertionError("no free port")


@dataclass(frozen=True)
class Slurm:
    """A cluster whose files are in a folder."""

    folder: Path
    job: int

    @classmethod
    def make(cls, folder: Path) -> Slurm:
        """With srun and scontrol."""
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
            program.chmod(0o755)
        return cls(folder, free_job())

    def batch(self, words: list[str], submitted_in: Path = REPOSITORY, restarts: int = 0):
        """The job's shell; Slurm runs a copy of the file, which lies elsewhere."""
        copy = self.folder / "slurm_script"
        shutil.copy(APP / "run_bmtrain.sbatch", copy)
        environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "OMP_WAIT_POLICY": "PASSIVE",
            "SLURM_JOB_ID": str(self.job),
            "SLURM_NNODES": str(NODES),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_SUBMIT_DIR": str(submitted_in),
            "SLURM_GPUS_ON_NODE": "1",
            "SLURM_RESTART_COUNT": str(restarts),
            "SCONTROL_LOG": str(self.folder / "asked"),
        }
        return start(["bash", str(copy), *words], environment, self.folder)

    def asked(self) -> list[str]:
        """What scontrol was asked to do."""
        log = self.folder / "asked"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def slurm(tmp_path):
    return Slurm.make(tmp_path)


@pytest.fixture
def stub(tmp_path):
    """A checkout with a run_bmtrain.sh that does not train; its folder holds a space."""
    script = tmp_path / "my checkout/apps/fm9g_7b/run_bmtrain.sh"
    script.parent.mkdir(parents=True)
    script.write_text(STUB)
    return tmp_path / "my checkout"


def test_a_job_that_is_signalled_saves_and_goes_on_when_it_starts_again(place, slurm, tmp_path):
    output = Output(tmp_path / "out")
    options = {"n_gpus": None, "grad_accum": 1}  # resume_ckpt latest goes without saying
    job = slurm.batch(place.words(output.root, **options, train_iters=100_000))
    wait_until(lambda: output.metrics() or job.poll() is not None, "an iteration", 120)
    job.send_signal(signal.SIGUSR1)
    ended = finish(job, 90)
    assert ended.returncode == launcher.STOPPED, ended.output
    saved = output.latest()
    assert f"stopped after step {saved}, which is saved" in ended.output
    assert slurm.asked() == [f"requeue {slurm.job}"]

    again = finish(slurm.batch(place.words(output.root, **options, train_iters=saved + 2)), 120)
    assert again.returncode == 0, again.output
    assert f"at step {saved}" in again.output
    assert [line["iteration"] for line in output.metrics()] == list(range(1, saved + 3))
    assert slurm.asked() == [f"requeue {slurm.job}"]


@pytest.mark.parametrize(("status", "asked"), [(0, 0), (1, 0), (75, 1), (137, 0)])
def test_only_a_run_that_is_saved_is_put_back(slurm, stub, status, asked):
    ended = finish(slurm.batch([str(status), "two words"], stub))
    assert ended.returncode == status
    assert slurm.asked() == [f"requeue {slurm.job}"] * asked
    place = f"of 2 at 127.0.0.1:{20_000 + slurm.job % 10_000}, 1 ranks: {status} two words --resume_ckpt latest"
    assert sorted(line for line in ended.output.splitlines() if line.startswith("node ")) == [
        f"node 0 {place}",
        f"node 1 {place}",
    ]


@pytest.mark.parametrize(
    ("restarts", "word", "added"),
    [
        (0, "--resume_ckpt", ""),
        (0, "--resume-ckpt=500", ""),
        (0, "--lr", " --resume_ckpt latest"),
        (1, "--resume_ckpt", " --resume_ckpt latest --only_load_model 0"),
    ],
)
def test_a_job_that_comes_back_goes_on_with_what_it_saved(slurm, stub, restarts, word, added):
    ended = finish(slurm.batch(["0", word, "5"], stub, restarts))
    assert ended.returncode == 0
    told = [line for line in ended.output.splitlines() if line.startswith("node 0 ")]
    assert told[0].endswith(f"1 ranks: 0 {word} 5{added}")


@pytest.mark.parametrize(("name", "asked"), [("SIGUSR1", 1), ("SIGTERM", 0)])
def test_a_cancelled_job_is_not_put_back(slurm, stub, tmp_path, name, asked):
    mark = tmp_path / "ends"
    job = slurm.batch(["wait", str(mark)], stub)
    wait_until(lambda: all(Path(f"{mark}.{node}").exists() for node in range(NODES)), "both nodes")
    job.send_signal(getattr(signal, name))
    if name == "SIGTERM":  # what Slurm tells the nodes itself
        mark.touch()
    assert finish(job).returncode == launcher.STOPPED
    assert slurm.asked() == [f"requeue {slurm.job}"] * asked


def test_a_job_that_was_submitted_elsewhere_says_so(slurm, tmp_path):
    ended = finish(slurm.batch(["0"], tmp_path))
    assert ended.returncode == 1
    script = tmp_path / "apps/fm9g_7b/run_bmtrain.sh"
    assert ended.output == f"error: there is no {script}: call sbatch from the repository's root\n"
