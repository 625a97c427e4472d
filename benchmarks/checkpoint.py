"""Saving and loading checkpoints, beside torch.save and torch.distributed.checkpoint of the same state.

    python benchmarks/checkpoint.py [--millions 25,100,200] [--rounds 3] [--folder FOLDER]

A decoder in bf16 with AdamW's state (14 bytes a parameter) is saved by one process, each side in one of its own, in
turn. `pause` is how long training stands still, `save` how long until all is on the disk; what a save in the background
costs training that goes on meanwhile is not in it. `memory` is what the process has at most in a save beyond what it
had before the first one. Medians over the rounds; every save goes to a new folder and ends with fsync.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_sides import in_own_process

SIDES = ("ours", "ours, async_save", "torch.save", "DCP", "DCP, async")
SHAPE = {"vocab_size": 8192, "num_heads": 8, "dim_model": 1024, "dim_ff": 2816, "tie_lm_head": True}
LAYER = 4 * 1024 * 1024 + 3 * 1024 * 2816  # parameters


class Measured(NamedTuple):
    """Seconds; gigabytes."""

    save: float
    pause: float
    load: float
    memory: float


def trained(millions: int) -> tuple[Any, Any]:
    """A decoder of about so many million parameters and its optimizer, after a step."""
    import torch

    from fm9g import runtime
    from fm9g.model.config import ModelConfig
    from fm9g.model.decoder import Decoder

    runtime.initialize(seed=1)
    layers = max(1, round((millions * 1e6 - SHAPE["vocab_size"] * SHAPE["dim_model"]) / LAYER))
    model = Decoder(ModelConfig(**SHAPE, num_layers=layers, dtype="bf16", max_length=128))  # type: ignore[arg-type]
    runtime.bmt.init_parameters(model)
    optimizer = runtime.bmt.optim.AdamOptimizer(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return model, optimizer


def ours(model: Any, optimizer: Any, background: bool) -> tuple[Callable[[Path], float], Callable[[Path], None]]:
    """Saves (and gives the pause in seconds), and loads."""
    from fm9g.checkpoint.contents import Contents
    from fm9g.checkpoint.damage import damage
    from fm9g.checkpoint.folder import weights_name
    from fm9g.checkpoint.manifest import everything
    from fm9g.checkpoint.optimizer import load_optimizer_state, optimizer_state
    from fm9g.checkpoint.saver import BackgroundSaver, Saver
    from fm9g.checkpoint.weights import load_weights, weights_of

    names = [name for name, _ in model.named_parameters()]
    saver = BackgroundSaver() if background else Saver()

    def save(folder: Path) -> float:
        files = {"optimizer-00000.pt": optimizer_state(model, optimizer)}
        saver.begin(folder, 1, Contents(files, {"model": {}}, weights_of(model, names)))
        ended = saver.ended(wait=True)
        assert ended is not None
        assert not ended.wrong, ended.wrong
        return ended.paused

    def load(folder: Path) -> None:
        assert not damage(folder / "1", everything)
        load_weights(model, folder / "1" / weights_name(1), True, names)
        load_optimizer_state(model, optimizer, folder / "1", on_host=False)

    return save, load


def peers(model: Any, optimizer: Any, side: str) -> tuple[Callable[[Path], float], Callable[[Path], None]]:
    """The same with the same tensors by name."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    state = {name: parameter.data for name, parameter in model.named_parameters()}
    for number, kept in enumerate(optimizer.state.values()):
        state |= {f"optimizer.{number}.{key}": value for key, value in kept.items() if isinstance(value, torch.Tensor)}
    if side == "DCP, async":
        with tempfile.NamedTemporaryFile() as file:
            dist.init_process_group("gloo", init_method=f"file://{file.name}.store", rank=0, world_size=1)

    def save(folder: Path) -> float:
        started = time.perf_counter()
        if side == "torch.save":
            with open(folder / "all.pt", "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        elif side == "DCP":
            dcp.save(state, checkpoint_id=folder / "dcp", no_dist=True)
        else:
            future = dcp.async_save(state, checkpoint_id=folder / "dcp")
            paused = time.perf_counter() - started
            future.result()  # type: ignore[union-attr]
            return paused
        return time.perf_counter() - started

    def load(folder: Path) -> None:
        if side == "torch.save":
            loaded = torch.load(folder / "all.pt", weights_only=True)
            for name, tensor in state.items():
                tensor.copy_(loaded[name])
        else:
            dcp.load(state, checkpoint_id=folder / "dcp", no_dist=side == "DCP")

    return save, load


def resident(key: str) -> float:
    """Gigabytes of this process: VmRSS now, VmHWM at most since `forget_peak`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024e-9 for line in status if line.startswith(f"{key}:"))


def forget_peak() -> None:
    """Begin to measure the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(side: str, millions: int, rounds: int, root: Path) -> list[Measured]:
    """What each save and load of one side took, in this process."""
    model, optimizer = trained(millions)
    is_ours = side.startswith("ours")
    save, load = ours(model, optimizer, "async" in side) if is_ours else peers(model, optimizer, side)
    before, found = resident("VmRSS"), []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory(dir=root) as folder:
            forget_peak()
            started = time.perf_counter()
            pause = save(Path(folder))
            saved = time.perf_counter()
            memory = resident("VmHWM") - before
            load(Path(folder))
            found.append(Measured(saved - started, pause, time.perf_counter() - saved, memory))
    return found[1:]  # in the first, memory is taken that is there then


def main() -> None:
    """Run the sides and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", default="25,100,200", help="parameters of the models")
    parser.add_argument("--rounds", type=int, default=3, help="saves and loads of each side")
    parser.add_argument("--folder", type=Path, help="where to save; default: the system's temporary folder")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root = arguments.folder or Path(tempfile.gettempdir())
    if arguments.side:
        print(json.dumps(measured(arguments.side, int(arguments.millions), arguments.rounds, root)))
        return
    free = shutil.disk_usage(root).free
    for millions in map(int, arguments.millions.split(",")):
        print(f"{millions} million parameters, {millions * 14e-3:.2f} GB; {free / 1e9:.0f} GB free")
        print(f"{'':18} {'save s':>8} {'pause s':>8} {'load s':>8} {'memory GB':>10}")
        for side in SIDES:
            rounds = [Measured(*one) for one in in_own_process(__file__, arguments, side=side, millions=millions)]
            save, pause, load, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{side:18} {save:8.2f} {pause:8.3f} {load:8.2f} {memory:10.2f}", flush=True)


if __name__ == "__main__":
    main()
