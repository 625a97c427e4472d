"""Whether weights are a model's, by their names and shapes: without a model, and without reading them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fm9g.errors import UserError
from fm9g.tensors.lazy import DTYPES, unsupported
from fm9g.tensors.readers import Checkpoint, read_weights

ADAPTERS = ".lora."  # in the names of adapters' tensors


def fitting(path: Path, shapes: Mapping[str, tuple[int, ...]], strict: bool) -> tuple[Checkpoint, list[str]]:
    """The tensors of `path` that a model has, whose parameters have these `shapes`, and what is skipped when not
    strict.

    Missing, unexpected or misshapen keys, and those of other formats than the converters take, are a UserError that
    names them.
    """
    weights = read_weights(path)
    missing = [f"missing {name} {list(shapes[name])}" for name in shapes if name not in weights]
    unexpected = [f"unexpected {name} {list(weights[name].shape)}" for name in weights if name not in shapes]
    loaded = {name: weights[name] for name in shapes if name in weights}
    if not loaded:  # of such a file nobody wants the rest
        strict = True
        if any(ADAPTERS in name for name in shapes):
            missing, unexpected = ["it holds no adapters"], unexpected[:3]
    misfits = [
        f"{name}: the file has {list(weight.shape)}, the model {list(shapes[name])}"
        for name, weight in loaded.items()
        if weight.shape != shapes[name]
    ]
    for name, weight in loaded.items():
        if weight.dtype not in DTYPES:
            misfits.append(f"{name}: dtype {weight.dtype} ({unsupported(weight.dtype)})")
    if misfits or (strict and (missing or unexpected)):
        problems = misfits + missing + unexpected
        listed = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        hint = "" if misfits else " (strict_state_dict=0 loads the rest)"
        if any(ADAPTERS in name for name in weights) and not any(ADAPTERS in name for name in shapes):
            hint = ": it holds adapters, for runs with lora=1"
        raise UserError(f"{path} does not fit the model{hint}:\n  {listed}")
    return loaded, missing + unexpected
