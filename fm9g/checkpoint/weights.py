"""A model's weights in a .pt file: {name: tensor}, written and loaded by all ranks together."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.checkpoint.fit import SAFETENSORS_NAMES, fitting
from fm9g.checkpoint.shared_file import Piece, SharedTensors
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressBar
from fm9g.runtime.shards import shards, whole_shapes
from fm9g.tensors import finite
from fm9g.tensors.lazy import Described, LazyTensor


def weights_of(model: Any, names: Collection[str]) -> SharedTensors:
    """The parameters `names` of the model as all ranks write them."""
    shapes = whole_shapes(model)
    described = {
        name: Described(SAFETENSORS_NAMES[param.dtype], shapes[name])
        for name, param in model.named_parameters()
        if name in names
    }
    pieces = [Piece(name, start, param.data) for name, param, start, _ in shards(model) if name in names]
    return SharedTensors(described, pieces)


def load_weights(model: Any, path: Path, strict: bool, names: Collection[str]) -> list[str]:
    """Load a .pt into the parameters `names` of the model, every rank reading what it holds; returns the keys skipped
    when not strict.

    What does not fit (`fitting`), and values that are not finite in the model's dtype, are a UserError that names them.
    Collective: all ranks end alike.
    """
    shapes = {name: shape for name, shape in whole_shapes(model).items() if name in names}
    loaded, skipped = fitting(path, shapes, strict)
    dtypes = {name: param.dtype for name, param in model.named_parameters()}
    wrong = runtime.first_said(_fault_in_share(loaded, dtypes))
    if wrong:
        raise UserError(
            f"{path}: {wrong}: no weights to train from; take another checkpoint, or another dtype in the model config"
        )
    model.load_state_dict(loaded, strict=False)
    return skipped


def fill(model: Any, tensors: Mapping[str, LazyTensor], progress: ProgressBar) -> None:
    """Give the model the values of tensors of its names and shapes: each rank what it holds, a piece at a time."""
    for name, param, start, end in shards(model):
        at = 0
        for piece in tensors[name].pieces():
            first, last = max(at, start), min(at + len(piece), end)
            if first < last:
                param.data[first - start : last - start] = piece[first - at : last - at]
            at += len(piece)
            progress.add(piece.nbytes)


def _fault_in_share(weights: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> str:
    """The first value among this rank's share of all pieces that is not finite in the model's dtype."""
    views = ((name, view) for name, weight in weights.items() for view in finite.views(weight))
    for name, view in itertools.islice(views, runtime.rank(), None, runtime.world_size()):
        if wrong := finite.fault(view, dtypes[name]):
            return f"{name} has {wrong}"
    return ""


def fault_in_model(model: Any) -> str:
    """The first weight that is not finite, and what it has instead; the same on all ranks, each looking at its own."""
    found = ((name, finite.fault(param.data, param.dtype)) for name, param, *_ in shards(model))
    return runtime.first_said(next((f"{name} has {wrong}" for name, wrong in found if wrong), ""))
