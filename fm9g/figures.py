"""Figures as PNG files. matplotlib draws them and does nothing else, so it may be missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fm9g.errors import UserError
from fm9g.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INSTALLED_BY = 'pip install matplotlib (or, in the repository, pip install -e ".[plots]")'


def require_matplotlib() -> None:
    """UserError with the command that installs it where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(f"a PNG needs matplotlib, which cannot be imported ({error}): {_INSTALLED_BY}") from None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that is drawn without a display; UserError where matplotlib is missing."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_png(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write a figure, complete or not at all."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
