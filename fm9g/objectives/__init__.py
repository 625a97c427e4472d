"""What a run learns from a strip of documents: each objective a file, and a line here.

Names are imported when they are asked for, so that settings can be checked without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fm9g.objectives.base import Objective


class Named(NamedTuple):
    """Where the class of an objective is, and what it learns, in English and in Chinese."""

    path: str  # module:class
    meaning: str
    chinese: str


OBJECTIVES = {
    "pretrain": Named("fm9g.objectives.language_model:LanguageModel", "the next token", "预测下一个 token"),
}


def find_objective(name: str) -> type[Objective]:
    """The class of an objective of OBJECTIVES."""
    module, _, kind = OBJECTIVES[name].path.partition(":")
    found: type[Objective] = getattr(importlib.import_module(module), kind)
    return found
