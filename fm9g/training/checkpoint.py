"""Checkpoints: complete or not there, and loadable by any number of ranks.

    checkpoints/U/<step>/fm9g_live_checkpoint-<step>.pt    weights, {name: tensor}
    checkpoints/U/<step>/fm9g_live_checkpoint-<step>.json  the model config
    checkpoints/U/<step>/optimizer-00000.pt …              one a rank: its pieces of the parameters' states
    checkpoints/U/<step>/data-00000.pt …                   one a rank: the states of its lanes
    checkpoints/U/<step>/random-00000.pt …                 one a rank: its random generators
    checkpoints/U/<step>/state.json                        step, counters, settings, model config
    checkpoints/U/latest                                   the newest complete step

All ranks write into `.<step>.partial`; when all are done it is renamed. A piece of optimizer state says which flat
range of which parameter it is, so ranks that are cut otherwise pick what overlaps theirs.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fm9g import runtime
from fm9g.errors import UserError
from fm9g.files import fsync_path, write_json, write_text
from fm9g.progress import Progress
from fm9g.runtime import bmt
from fm9g.tensors import finite
from fm9g.tensors.lazy import DTYPES, LazyTensor, unsupported
from fm9g.tensors.readers import map_tensors
from fm9g.tensors.writers import write_pt

OPTIMIZER_FILE = "optimizer-{rank:05d}.pt"
RANDOM_FILE = "random-{rank:05d}.pt"
MOMENTS = ("exp_avg", "exp_avg_sq", "_param_fp32")
SAFETENSORS_NAMES = {dtype.torch: name for name, dtype in DTYPES.items()}
WRITTEN_ELEMENTS = 1 << 22  # moved to the host and written at a time
ZeroContext = bmt.zero_context.ZeroContext


def weights_name(step: int) -> str:
    """The name of the weights' file."""
    return f"fm9g_live_checkpoint-{step}.pt"


def gathered_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of every weight in order, one block gathered at a time; all ranks must go through it."""
    for prefix, module in model.named_modules():
        if isinstance(module, bmt.Block):
            with torch.no_grad(), ZeroContext(module):
                for info in module._param_info:
                    yield f"{prefix}.{info['name']}", info["parameter"].detach()
        else:
            for name, param in module._parameters.items():
                if isinstance(param, bmt.DistributedParameter) and not param._in_block:
                    with torch.no_grad():
                        weight = param.gather()
                    yield f"{prefix}.{name}" if prefix else name, weight


def write_weights(model: Any, path: Path) -> None:
    """Rank 0 writes {name: tensor} as torch.save would; no rank ever holds more than a block of the whole model."""
    weights = gathered_weights(model)
    if runtime.rank() != 0:
        for _ in weights:
            pass
        return

    def described(name: str, param: Any) -> LazyTensor:
        def content() -> Iterator[Tensor]:
            gathered_name, weight = next(weights)
            assert gathered_name == name, f"{gathered_name} was gathered where {name} was expected"
            yield from weight.flatten().split(WRITTEN_ELEMENTS)

        return LazyTensor(SAFETENSORS_NAMES[param.dtype], tuple(param._original_shape), lambda: map(_on_cpu, content()))

    tensors = {name: described(name, param) for name, param in model.named_parameters()}
    with Progress(path.name, sum(tensor.nbytes for tensor in tensors.values())) as progress:
        write_pt(path, tensors, progress)
    assert next(weights, None) is None


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.cpu()


def pieces(model: Any) -> Iterator[tuple[str, Any, int, int]]:
    """(name, parameter, start, end) of the flat ranges that this rank holds, empty ones left out."""
    for name, param in model.named_parameters():
        if param.numel() and param._start_partition is not None:
            yield name, param, param._start_partition, param._start_partition + param.numel()


def optimizer_state(model: Any, optimizer: Any) -> dict[str, dict[str, Any]]:
    """{name: {start, step, exp_avg, …}} of this rank's pieces."""
    states = {}
    for name, param, start, _ in pieces(model):
        state = optimizer.state.get(param)
        if state:
            kept = {key: state[key].detach().flatten().cpu() for key in MOMENTS if key in state}
            states[name] = {"start": start, "step": int(state["step"]), **kept}
    return states


def load_optimizer_state(model: Any, optimizer: Any, folder: Path, on_host: bool) -> int:
    """Put the saved states of a checkpoint into the optimizer; returns the number of files read."""
    files = sorted(folder.glob("optimizer-*.pt"))
    if not files:
        raise UserError(f"{folder}: holds no optimizer state; load_grad=0 starts the optimizer anew")
    parts = [torch.load(path, weights_only=True, mmap=True, map_location="cpu") for path in files]
    for name, param, start, end in pieces(model):
        saved = [part[name] for part in parts if name in part]
        if saved:
            device = torch.device("cpu") if on_host else param.device
            optimizer.state[param] = _assemble(name, saved, start, end, param, device, on_host)
    return len(files)


def _assemble(
    name: str, saved: list[dict[str, Any]], start: int, end: int, param: Tensor, device: torch.device, on_host: bool
) -> dict[str, Any]:
    """One piece's state [end - start] out of the saved pieces that overlap it."""
    keys = ["exp_avg", "exp_avg_sq"]
    if param.dtype != torch.float32 or on_host:
        keys.append("_param_fp32")
    state: dict[str, Any] = {"step": max(part["step"] for part in saved)}
    for key in keys:
        flat = torch.empty(end - start, dtype=torch.float32)
        filled = 0
        for part in saved:
            values = part.get(key)
            if values is None:  # float32 without offload keeps no second copy: the parameter is the master
                continue
            low, high = max(start, part["start"]), min(end, part["start"] + len(values))
            if low < high:
                if values.dtype != torch.float32:
                    raise UserError(f"the optimizer files have {key} of {name} as {values.dtype}, not as float32")
                flat[low - start : high - start] = values[low - part["start"] : high - part["start"]]
                filled += high - low
        if filled == 0 and key == "_param_fp32":
            flat.copy_(param.detach().flatten())
        elif filled != end - start:
            raise UserError(f"the optimizer files lack {end - start - filled} elements of {key} of {name}")
        if wrong := finite.fault(flat, torch.float32):
            raise UserError(
                f"the optimizer files have {wrong} in {key} of {name}; load_grad=0 starts the optimizer anew"
            )
        state[key] = flat.view(param.shape).to(device)
    return state


def random_state() -> dict[str, Any]:
    """The states of all generators that a run draws from."""
    _, keys, position, *_ = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(random.getstate()[1], dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_position": int(position),
    }
    if (device := runtime.device_random_state()) is not None:
        state["cuda"] = device
    return state


def load_random_state(folder: Path) -> bool:
    """Restore this rank's generators; False if the checkpoint has none for it (it had fewer ranks)."""
    path = folder / RANDOM_FILE.format(rank=runtime.rank())
    if not path.exists():
        return False
    state = torch.load(path, weights_only=True)
    torch.set_rng_state(state["torch"])
    random.setstate((3, tuple(state["python"].tolist()), None))
    np.random.set_state(("MT19937", state["numpy"].numpy().astype(np.uint32), state["numpy_position"], 0, 0.0))
    if "cuda" in state:
        runtime.load_device_random_state(state["cuda"])
    return True


def load_weights(model: Any, path: Path, strict: bool) -> list[str]:
    """Load a .pt into the model, every rank reading what it holds; returns the keys skipped when not strict.

    Missing, unexpected or misshapen keys, those of other formats than the converters take, and values that are not
    finite in the model's dtype are a UserError that names them. Collective: all ranks end alike.
    """
    weights = map_tensors(path)
    expected = {name: tuple(param._original_shape) for name, param in model.named_parameters()}
    missing = [f"missing {name} {list(expected[name])}" for name in expected if name not in weights]
    unexpected = [f"unexpected {name} {list(weights[name].shape)}" for name in weights if name not in expected]
    loaded = {name: weights[name] for name in expected if name in weights}
    misfits = [
        f"{name}: the file has {list(weight.shape)}, the model {list(expected[name])}"
        for name, weight in loaded.items()
        if tuple(weight.shape) != expected[name]
    ]
    for name, weight in loaded.items():
        if weight.dtype not in SAFETENSORS_NAMES:
            dtype = str(weight.dtype).removeprefix("torch.")
            misfits.append(f"{name}: dtype {dtype} ({unsupported(dtype)})")
    if misfits or (strict and (missing or unexpected)):
        problems = misfits + missing + unexpected
        listed = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        hint = "" if misfits else " (strict_state_dict=0 loads the rest)"
        raise UserError(f"{path} does not fit the model{hint}:\n  {listed}")
    dtypes = {name: param.dtype for name, param in model.named_parameters()}
    wrong = _first_on_any_rank(_fault_in_share(loaded, dtypes))
    if wrong:
        raise UserError(
            f"{path}: {wrong}: no weights to train from; take another checkpoint, or another dtype in the model config"
        )
    model.load_state_dict(loaded, strict=False)
    return missing + unexpected


def _fault_in_share(weights: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> str:
    """The first value among this rank's share of all pieces that is not finite in the model's dtype."""
    views = ((name, view) for name, weight in weights.items() for view in finite.views(weight))
    for name, view in itertools.islice(views, runtime.rank(), None, runtime.world_size()):
        if wrong := finite.fault(view, dtypes[name]):
            return f"{name} has {wrong}"
    return ""


def fault_in_model(model: Any) -> str:
    """The first weight that is not finite, and what it has instead; the same on all ranks, each looking at its own."""
    found = ((name, finite.fault(param.data, param.dtype)) for name, param, *_ in pieces(model))
    return _first_on_any_rank(next((f"{name} has {wrong}" for name, wrong in found if wrong), ""))


def _first_on_any_rank(text: str) -> str:
    return next((said.decode() for said in runtime.gather_bytes(text.encode()) if said), "")


class CheckpointWriter:
    """Writes one checkpoint together with all other ranks."""

    def __init__(self, folder: Path, step: int) -> None:
        self._target = folder / str(step)
        self._partial = folder / f".{step}.partial"

    def write(self, files: dict[str, Any], state: dict[str, Any], model: Any = None) -> None:
        """Write this rank's `files` {name: contents}, the model's weights and rank 0's `state`.

        On return the checkpoint is complete on every rank.
        """
        first = runtime.rank() == 0
        if first:
            shutil.rmtree(self._partial, ignore_errors=True)  # what a killed save of this run left
            self._partial.mkdir()
        runtime.barrier()
        if not self._partial.is_dir():
            raise UserError(
                f"rank {runtime.rank()} does not see {self._partial}: output_dir must be shared by all nodes"
            )
        for name, contents in files.items():
            torch.save(contents, self._partial / name)
            fsync_path(self._partial / name)
        if model is not None:
            write_weights(model, self._partial / weights_name(int(self._target.name)))
        runtime.barrier()
        if first:
            write_json(self._partial / "state.json", state)
            if model is not None:  # beside the weights as the converters write it, so that they can check what they get
                write_json((self._partial / weights_name(int(self._target.name))).with_suffix(".json"), state["model"])
            fsync_path(self._partial)
            self._publish()
        runtime.barrier()

    def _publish(self) -> None:
        if self._target.exists():  # from before a resume at an earlier step: kept, under another name
            number = 1
            while (aside := self._target.with_name(f"{self._target.name}.superseded-{number}")).exists():
                number += 1
            os.rename(self._target, aside)
        os.rename(self._partial, self._target)
        fsync_path(self._target.parent)
        write_text(self._target.parent / "latest", f"{self._target.name}\n")
