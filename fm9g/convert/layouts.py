"""How a family's tensors hold those of our model: under which names, and with rows in which order.

    ours  q, k, v     [16, 64] [8, 64] [8, 64]
    theirs  W_pack    [32, 64]                     Layout(("…W_pack",), ("…project_q", "…project_k", "…project_v"))

    theirs  experts.0.w2, experts.1.w2   [64, 96] each
    ours    experts.w_out                [128, 96]   Layout(("experts.{}.w2",), ("…experts.w_out",), each="experts")

Weights and biases of a layer are laid out alike, so names are without .weight and .bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.model.expert_parameters import STACKED
from fm9g.model.parameters import LAYERS, Parameter, parameters, sizes
from fm9g.tensors.lazy import LazyTensor
from fm9g.tensors.rows import rows_of

JOINED = "joined"  # the axis of several tensors' rows in one


class Layout(NamedTuple):
    """cat(theirs, 0) == cat(ours, 0)[order]; the way back is the inverse permutation.

    Theirs are one tensor, or as many as ours with as many rows each. `order` gives, for a config, the permutation
    [rows] of a weight's rows and a bias's elements; None leaves them as they are. `each`, a key of
    `fm9g.model.parameters.sizes`: theirs is one tensor for each number below that, which {} stands for in its name,
    and ours has the rows of all.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    order: Callable[[ModelConfig], np.ndarray] | None = None
    each: str = ""


class Layouts(NamedTuple):
    """A family's: of what is there once, and of a block; `layers` and its number stand before their names there.

    `prefix`: what begins names here that some checkpoints of the family write without it.
    """

    ends: tuple[Layout, ...]
    layers: str
    block: tuple[Layout, ...]
    prefix: str = ""

    def replacing(self, *layouts: Layout) -> Layouts:
        """With these of a block in the place of those that have any of the same tensors of ours."""
        taken = {name for layout in layouts for name in layout.ours}
        return self._replace(block=(*(one for one in self.block if not taken & set(one.ours)), *layouts))


def renamed(names: Mapping[str, str]) -> tuple[Layout, ...]:
    """Layouts of tensors that differ in nothing but their names: theirs by ours."""
    return tuple(Layout((theirs,), (ours,)) for ours, theirs in names.items())


def own_layouts(config: ModelConfig) -> Layouts:
    """Each tensor of ours by itself: of a model whose tensors nobody else names."""
    stems = dict.fromkeys(parameter.name.rpartition(".")[0] for parameter in parameters(config))
    first = f"{LAYERS}0."
    ends = {stem: stem for stem in stems if not stem.startswith(LAYERS)}
    block = {stem.removeprefix(first): stem.removeprefix(first) for stem in stems if stem.startswith(first)}
    return Layouts(renamed(ends), LAYERS, renamed(block))


class Shaped(NamedTuple):
    """A tensor that a checkpoint must hold; an axis is a key of `fm9g.model.parameters.sizes`, or JOINED."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]


class Group(NamedTuple):
    """The tensors that one layout ties, of a block or once; `order` is a permutation of their rows."""

    theirs: tuple[Shaped, ...]
    ours: tuple[Shaped, ...]
    order: np.ndarray | None

    def side(self, side: str) -> tuple[Shaped, ...]:
        """Its tensors in the names of "huggingface" or "ours"."""
        return self.theirs if side == "huggingface" else self.ours


def groups(config: ModelConfig, layouts: Layouts) -> list[Group]:
    """Every tensor of the model, in the order of a forward pass; a tied head is none."""
    table = {parameter.name: parameter for parameter in parameters(config)}
    found: dict[str, Group] = {}  # by the first of ours
    for name in table:
        layout, prefixes, kind = _layout_of(name, layouts)
        first = f"{prefixes[1]}{layout.ours[0]}.{kind}"
        if first not in found:
            ours = [table[f"{prefixes[1]}{stem}.{kind}"] for stem in layout.ours]
            theirs = [f"{prefixes[0]}{stem}.{kind}" for stem in layout.theirs]
            found[first] = _group(layout, theirs, ours, config)
    return list(found.values())


def _layout_of(name: str, layouts: Layouts) -> tuple[Layout, tuple[str, str], str]:
    """The layout of one of our tensors, what their names and ours begin with there, and weight or bias."""
    stem, _, kind = name.rpartition(".")
    prefixes, candidates = ("", ""), layouts.ends
    if stem.startswith(LAYERS):
        number, _, stem = stem.removeprefix(LAYERS).partition(".")
        prefixes, candidates = (f"{layouts.layers}{number}.", f"{LAYERS}{number}."), layouts.block
    return next(layout for layout in candidates if stem in layout.ours), prefixes, kind


def _group(layout: Layout, theirs: Sequence[str], ours: Sequence[Parameter], config: ModelConfig) -> Group:
    mine = tuple(Shaped(*parameter[:3]) for parameter in ours)
    shaped: list[Shaped]
    if layout.each:
        assert len(theirs) == len(mine) == 1 and layout.order is None
        shaped = _one_for_each(theirs[0], mine[0], sizes(config)[layout.each])
    elif len(theirs) == len(ours):
        shaped = [Shaped(name, *other[1:]) for name, other in zip(theirs, mine, strict=True)]
    else:
        assert len(theirs) == 1, "how many rows each of theirs has is not known"
        rows, axes, rest = sum(one.shape[0] for one in mine), (JOINED, *mine[0].axes[1:]), mine[0].shape[1:]
        shaped = [Shaped(theirs[0], axes, (rows, *rest))]
    return Group(tuple(shaped), mine, layout.order(config) if layout.order else None)


def _one_for_each(theirs: str, ours: Shaped, count: int) -> list[Shaped]:
    axes, shape = (STACKED[ours.axes[0]], *ours.axes[1:]), (ours.shape[0] // count, *ours.shape[1:])
    return [Shaped(theirs.format(number), axes, shape) for number in range(count)]


def their_name(name: str, layouts: Layouts) -> str:
    """The name of their tensor that holds one of ours, by itself or among others; with {} where theirs are many."""
    layout, prefixes, kind = _layout_of(name, layouts)
    place = layout.ours.index(name.removesuffix(f".{kind}").removeprefix(prefixes[1]))
    return f"{prefixes[0]}{layout.theirs[place if len(layout.theirs) > 1 else 0]}.{kind}"


def converted(found: Sequence[Group], tensors: Mapping[str, LazyTensor], side: str) -> Iterator[tuple[str, LazyTensor]]:
    """(name, tensor) of the other side than that in whose names `tensors` are."""
    for group in found:
        sources = group.side(side)
        targets = group.theirs if side == "ours" else group.ours
        held = [tensors[source.name] for source in sources]
        if len(sources) == len(targets) == 1 and group.order is None:
            yield targets[0].name, held[0]
            continue
        for source, tensor in zip(sources, held, strict=True):
            if tensor.dtype != held[0].dtype:
                raise UserError(
                    f"{sources[0].name} is {held[0].dtype}, {source.name} {tensor.dtype}: they become one tensor; "
                    "choose a dtype for both"
                )
        yield from _taken(group, held, targets, side)


def _taken(
    group: Group, held: list[LazyTensor], targets: Sequence[Shaped], side: str
) -> Iterator[tuple[str, LazyTensor]]:
    """Each target's rows out of those of the sources, one after another."""
    whole: np.ndarray = np.arange(sum(tensor.shape[0] for tensor in held))
    if group.order is not None:
        whole = group.order if side == "ours" else np.argsort(group.order)
    start = 0
    for target in targets:
        stop = start + target.shape[0]
        yield target.name, rows_of(held, whole[start:stop])
        start = stop
