"""The optimizer's state in a checkpoint: each rank's shards, put together again for ranks that are cut otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm9g.errors import UserError
from fm9g.runtime.shards import shards
from fm9g.tensors import finite
from fm9g.tensors.readers import map_pt

OPTIMIZER_FILE = "optimizer-{rank:05d}.pt"
MOMENTS = ("exp_avg", "exp_avg_sq", "_param_fp32")


def optimizer_state(model: Any, optimizer: Any) -> dict[str, dict[str, Any]]:
    """{name: {start, step, exp_avg, …}} of this rank's shards."""
    states = {}
    for name, param, start, _ in shards(model):
        state = optimizer.state.get(param)
        if state:
            kept = {key: state[key].detach().flatten() for key in MOMENTS if key in state}
            states[name] = {"start": start, "step": int(state["step"]), **kept}
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
    for name, param, start, end in shards(model):
        saved = [part[name] for part in parts if name in part]
        if saved:
            device = torch.device("cpu") if on_host else param.device
            optimizer.state[param] = _assemble(name, saved, start, end, param, device, on_host)
        elif start < end and name in trained and any(parts):  # before a first update nothing has a state
            raise UserError(
                f"{folder}: its optimizer state has nothing of {name}; load_grad=0 starts the optimizer anew"
            )
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
