"""OpenDelta 0.3.2, which inserts adapters, without what it drags in for other purposes.

Its import wants modules that training never uses, and that are not there any more: they are stood in for while it is
imported. Its LoraModel then inserts what `adapt` makes of a layer; its own adapters, plain parameters that every rank
draws for itself, would lie outside of BMTrain's blocks, and it would add what they give in a pass of its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fm9g.errors import UserError

Adapt = Callable[[Any], Any]  # a layer to the module beside it
_DISTILBERT = "transformers.models.distilbert.modeling_distilbert"
# module: what is asked of it. For its hub, its web page, a line left over in basemodel.py, pictures of a model,
# DeepSpeed, prefix tuning.
STAND_INS = {
    "DeltaCenter": ("OssClient",),
    "web": ("application", "template"),
    "turtle": ("back",),
    "rich": ("print",),
    "rich.tree": ("Tree",),
    "transformers.deepspeed": ("deepspeed_config", "is_deepspeed_zero3_enabled"),
    _DISTILBERT: ("MultiHeadSelfAttention",),
}


class Absent:
    """Stands for what is not there. It may be made, and asked to render a page, as OpenDelta's import does."""

    def __init__(self, *arguments: object) -> None:
        pass

    @staticmethod
    def render(*arguments: object) -> None:
        """Render nothing."""


@contextlib.contextmanager
def _stood_in() -> Iterator[None]:
    """Have what OpenDelta's import wants, and take it away after that."""
    made: list[tuple[types.ModuleType, str]] = []
    added = []
    for name, attributes in STAND_INS.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            module = sys.modules[name] = types.ModuleType(name)
            added.append(name)
        for attribute in attributes:
            if not hasattr(module, attribute):
                setattr(module, attribute, Absent)
                made.append((module, attribute))
    try:
        yield
    finally:
        for module, attribute in made:
            delattr(module, attribute)
        for name in added:
            del sys.modules[name]


def find_opendelta() -> None:
    """UserError where OpenDelta is not installed."""
    if importlib.util.find_spec("opendelta") is None:
        raise UserError("LoRA needs OpenDelta: pip install --no-deps opendelta==0.3.2")


@functools.cache
def _lora_model() -> Any:
    """OpenDelta's LoraModel."""
    try:
        with _stood_in():
            return importlib.import_module("opendelta").LoraModel
    except ImportError as error:
        raise UserError(
            f"LoRA needs OpenDelta, which cannot be imported ({error}): pip install --no-deps opendelta==0.3.2"
        ) from None


def insert(module: Any, layers: Sequence[str], adapt: Adapt) -> None:
    """Put `adapt(layer)` beside each of the layers of a module that are named, as its `lora`: the layer's output is
    then what that makes of its input and its own output."""

    class Inserted(_lora_model()):  # type: ignore[misc]
        """LoraModel with adapters of ours."""

        def insert_parallel_module(self, module: Any, delta_module: Any, delta_name: str) -> None:
            setattr(module, delta_name, delta_module)
            layer = module.forward
            module.forward = lambda x: delta_module(x, layer(x))

        def new_module_like(self, child_module: Any) -> Any:
            adapter = adapt(child_module)
            self.delta_modules.append(adapter)
            return adapter

    Inserted(module, modified_modules=list(layers), backend="bmt")
