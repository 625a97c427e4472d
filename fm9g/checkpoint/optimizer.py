"""The optimizer's state in a checkpoint: each rank's shards, put together again for ranks that are cut otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fm9g.checkpoint.recut import copy_common
from fm9g.errors import UserError
from fm9g.runtime.shards import Columns, Shard, shards
from fm9g.tensors import finite
from fm9g.tensors.readers import map_pt

OPTIMIZER_FILE = "optimizer-{rank:05d}.pt"
COLUMNS = "columns"
MOMENTS = ("exp_avg", "exp_avg_sq", "_param_fp32")


def optimizer_state(model: Any, optimizer: Any) -> dict[str, dict[str, Any]]:
    """{name: {start, step, exp_avg, …}} of this rank's shards; of some of a matrix's columns, also which."""
    states = {}
    for name, param, start, _, columns in shards(model):
        state = optimizer.state.get(param)
        if state:
            kept = {key: state[key].detach().flatten() for key in MOMENTS if key in state}
            cut = {} if columns is None else {COLUMNS: list(columns)}
            states[name] = {"start": start, **cut, "step": int(state["step"]), **kept}
    return states


def load_optimizer_state(model: Any, optimizer: Any, folder: Path, on_host: bool) -> int:
    """Put the saved states of a checkpoint into the optimizer; returns the number of files read."""
    files = sorted(folder.glob("optimizer-*.pt"))
    if not files:
        raise UserError(f"{folder}: holds no optimizer state; load_grad=0 starts the optimizer anew")
    parts = [map_pt(path) for path in files]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{folder}: holds an optimizer file that is none; load_grad=0 starts the optimizer anew")
    trained = {name for name, param in model.named_parameters() if param.requires_grad}
    for shard in shards(model):
        saved = [part[shard.name] for part in parts if shard.name in part]
        if saved:
            optimizer.state[shard.parameter] = _assemble(shard, saved, on_host)
        elif shard.name in trained and any(parts):  # before a first update nothing has a state
            raise UserError(
                f"{folder}: its optimizer state has nothing of {shard.name}; load_grad=0 starts the optimizer anew"
            )
    return len(files)


def _assemble(shard: Shard, saved: list[dict[str, Any]], on_host: bool) -> dict[str, Any]:
    """The state of what this rank holds out of the saved pieces that overlap it."""
    name, param, start, end, columns = shard
    device = torch.device("cpu") if on_host else param.device
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
            if values.dtype != torch.float32:
                raise UserError(f"the optimizer files have {key} of {name} as {values.dtype}, not as float32")
            cut = Columns(*part[COLUMNS]) if COLUMNS in part else None
            filled += copy_common(values, part["start"], cut, flat, start, columns)
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
