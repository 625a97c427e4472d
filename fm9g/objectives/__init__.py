"""What a run learns from a strip of documents: each objective a file, and a line here.

Names are imported when they are asked for, so that settings can be checked without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm9g.objectives.base import Objective

OBJECTIVES = {
    "pretrain": "fm9g.objectives.language_model:LanguageModel",
}


def find_objective(name: str) -> type[Objective]:
    """The class of an objective of OBJECTIVES."""
    module, _, kind = OBJECTIVES[name].partition(":")
    found: type[Objective] = getattr(importlib.import_module(module), kind)
    return found
