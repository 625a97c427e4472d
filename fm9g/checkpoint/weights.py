"""A model's weights in files, {name: tensor}, written and loaded by all ranks together."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.checkpoint.fit import fitting
from fm9g.checkpoint.recut import rectangles
from fm9g.checkpoint.shared_file import Piece
from fm9g.checkpoint.weights_files import SharedTensors
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressBar
from fm9g.runtime import tensor_parallel
from fm9g.runtime.shards import Shard, columns_cut, shards, whole_shapes
from fm9g.tensors import finite
from fm9g.tensors.forms import PT
from fm9g.tensors.lazy import KEYS, Described, LazyTensor


def weights_of(model: Any, names: Collection[str], form: str = PT) -> SharedTensors:
    """The parameters `names` of the model as all ranks write them."""
    shapes = whole_shapes(model)
    described = {
        name: Described(KEYS[param.dtype], shapes[name]) for name, param in model.named_parameters() if name in names
    }
    held = {shard.name: shard for shard in shards(model) if shard.name in names}
    pieces = [Piece(name, start, param.data) for name, param, start, _, columns in held.values() if columns is None]
    for name, param in columns_cut(model):
        if name in names:  # every rank comes, also with nothing: who waits is told by how many collectives it began
            held_here = held.get(name)
            values = param.data.new_zeros(1) if held_here is None else held_here.parameter.data
            parts = tensor_parallel.all_gather(values).view(tensor_parallel.size(), -1)
            pieces += [] if held_here is None else _stretches(held_here, parts)
    return SharedTensors(described, pieces, form)


def _stretches(shard: Shard, parts: Tensor) -> list[Piece]:
    """What a rank writes of some columns of a matrix: stretches of the whole, on the host.

    `parts` [ranks, values] is what the ranks of its tensor-parallel group have, who hold the same rows: each writes
    some of these, and of a row of which they have a part its own.
    """
    name, param, start, _, columns = shard
    assert columns is not None
    pieces = []
    for top, bottom, left, right, at in rectangles(start, param.numel(), columns):
        if (left, right) != columns[:2] or bottom - top == 1:
            first = top * columns.width + left
            pieces.append(Piece(name, first, param.data[at : at + right - left]))
            continue
        rows = parts[:, at : at + (bottom - top) * (right - left)].unflatten(1, (bottom - top, right - left))
        share = -(-(bottom - top) // tensor_parallel.size())
        mine = rows[:, tensor_parallel.rank() * share :][:, :share].transpose(0, 1)
        if mine.shape[0]:
            first = (top + tensor_parallel.rank() * share) * columns.width
            pieces.append(Piece(name, first, mine.reshape(-1).cpu()))
    return pieces


def load_weights(model: Any, path: Path, strict: bool, names: Collection[str]) -> list[str]:
    """Load weights into the parameters `names` of the model, every rank reading what it holds; returns the keys skipped
    when not strict.

    What does not fit (`fitting`), and values that are not finite in the model's dtype, are a UserError that names them.
    Collective: all ranks end alike.
    """
    shapes = {name: shape for name, shape in whole_shapes(model).items() if name in names}
    found, skipped = fitting(path, shapes, strict)
    loaded = {name: _mapped(tensor) for name, tensor in found.items()}
    dtypes = {name: param.dtype for name, param in model.named_parameters()}
    wrong = runtime.first_said(_fault_in_share(loaded, dtypes))
    if wrong:
        raise UserError(
            f"{path}: {wrong}: no weights to train from; take another checkpoint, or another dtype in the model config"
        )
    model.load_state_dict(loaded, strict=False)
    return skipped


def _mapped(tensor: LazyTensor) -> Tensor:
    assert tensor.mapped is not None, "weights to load lie in files"
    return tensor.mapped()


def fill(model: Any, tensors: Mapping[str, LazyTensor], progress: ProgressBar) -> None:
    """Give the model the values of tensors of its names and shapes: each rank what it holds, a piece at a time."""
    for name, param, start, end, columns in shards(model):
        assert columns is None, "who only generates cuts no columns"
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
