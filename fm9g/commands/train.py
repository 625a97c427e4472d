"""Start training, or another program, once for each rank of this node.

Settings and inputs are checked here too, so that a bad one is reported once and before any process starts.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import fm9g
from fm9g import launcher
from fm9g.commands.nodes import Claim, meet
from fm9g.commands.torchrun import launch
from fm9g.environment import REPOSITORY, seconds, whole_number
from fm9g.errors import UserError
from fm9g.settings import help_text
from fm9g.training.inputs import APP, open_inputs
from fm9g.training.overlap import COMPARED_AT_START, check_overlap
from fm9g.training.settings import Settings, config_paths, read_settings
from fm9g.training.start import planned_start

NODE_SECONDS = 600  # that a node waits for the others: schedulers do not start all at once


def rendezvous(nodes: int, ranks: int) -> list[str]:
    """How the nodes' launchers find each other: by the environment, or on one node by themselves. `ranks` are those of
    this node. Returns when all launchers are there."""
    if nodes == 1:
        return ["--standalone"]
    address = os.environ.get("MASTER_ENDPOINT") or os.environ.get("MASTER_ADDR", "")
    port, node = whole_number("MASTER_PORT", 29500, least=1, most=65535), whole_number("RANK", -1)
    if not address:
        raise UserError(f"NNODES={nodes}: set MASTER_ENDPOINT to the address of the node with RANK=0")
    if not 0 <= node < nodes:
        raise UserError(f"NNODES={nodes}: set RANK to this node's number, 0 to {nodes - 1}")
    patience = seconds("FM9G_RENDEZVOUS_SECONDS", NODE_SECONDS)
    if node == 0:
        print(f"waiting at {address}:{port} for {nodes - 1} more node(s), at most {patience:g} s", flush=True)
    meet(Claim(node, nodes, ranks, fm9g.__version__), address, port, patience)
    # static rendezvous: c10d would ignore the node's rank
    place = [f"--nnodes={nodes}", f"--node_rank={node}", f"--master_addr={address}", f"--master_port={port}"]
    return [*place, f"--rdzv_conf=timeout={math.ceil(patience)}"]


def check(settings: Settings, app: Path) -> None:
    """Refuse what every rank would refuse, but once."""
    from fm9g.training.start_check import check_start  # imports torch, which takes seconds

    inputs = open_inputs(settings, app)
    for said in check_overlap(inputs, COMPARED_AT_START):
        print(f"warning: {said}", flush=True)
    folder = inputs.folder
    folder.check_writable()
    begin = planned_start(inputs.settings, folder)
    check_start(begin, inputs.settings, inputs.model_config)
    launcher.remember(folder.checkpoints / "latest")


def processes(settings: Settings) -> int:
    """n_gpus, checked against the GPUs that are there; on a machine without any, that many CPU ranks."""
    import torch

    gpus = torch.cuda.device_count() if os.environ.get("FM9G_BACKEND") != "cpu" else 0
    if gpus and settings.n_gpus > gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = f"{gpus} GPU(s)" + (f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else "")
        raise UserError(f"n_gpus={settings.n_gpus} (GPUS_PER_NODE), but this node shows {seen}")
    return settings.n_gpus


def start(program: list[str], words: list[str], app: Path) -> None:
    """Check what a run would read, and start `program`, as Python takes it: a file, or -m and a module."""
    if "-h" in words or "--help" in words:
        print(help_text(Settings))
        return
    settings = read_settings(words, os.environ.get("FM9G_ARGS_TABLE", ""))
    _check_config(settings)
    if settings.dry_run:
        os.execv(sys.executable, [sys.executable, *program, *words])
    check(settings, app)
    count = processes(settings)
    meeting = rendezvous(whole_number("NNODES", 1, least=1), count)
    print(f"run {settings.model_unique!r}: settings and data are good; starting {count} process(es)", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # BMTrain gives each rank its share of cores itself
    # with NCCL, a lost peer must end the process instead of hanging it
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    *flags, target = program
    # after "--" torchrun takes no setting for a shortened flag of its own, as it would --local
    how = [f"--nproc_per_node={count}", f"--max_restarts={settings.max_restarts}"]
    launch([*meeting, *how, *flags, "--", target, *words])


def _check_config(settings: Settings) -> None:
    model = config_paths(settings.config)[0]
    if not settings.config.endswith(".json") and not model.exists() and not (REPOSITORY / "model_configs").is_dir():
        raise UserError(
            f"config {settings.config!r}: there is no model_configs/{model.name} in this folder, and fm9g is installed "
            "without its repository: copy model_configs/ and train_configs/ from there, or give --config FILE.json"
        )


def main() -> None:
    """Run the command line: settings as those of run_bmtrain.sh, with GPUS_PER_NODE but without its table."""
    ranks = whole_number("GPUS_PER_NODE", 0)
    words = [f"--n_gpus={ranks}", *sys.argv[1:]] if ranks else sys.argv[1:]  # of a repeated flag the last counts
    start(["-m", "fm9g.commands.pretrain"], words, APP)
