"""What the tests of all groups of settings use: which settings they see, and short readings of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from fm9g.errors import UserError
from fm9g.settings import Group, fields
from fm9g.training.settings import Settings, read_settings
from tests.support.outputs import Output

Test = TypeVar("Test", bound=Callable[..., None])
SEEN: set[str] = set()
FROZEN = {"lr": 0, "weight_decay": 0}


def sees(*names: str) -> Callable[[Test], Test]:
    """Says which settings' effects a test sees."""
    SEEN.update(names)
    return lambda test: test


def defaults(group: type[Group]) -> dict[str, Any]:
    """{setting: default} of a group."""
    return {name: item.default for name, item in fields(group).items()}


def read(*words: str, table: str = "", config: str = "no-such-config") -> Settings:
    """The settings of a command line, without a train config unless one is named."""
    return read_settings(["--config", config, *words], table)


def refused(*words: str, **options: str) -> str:
    """What the error says of a command line that is refused."""
    with pytest.raises(UserError) as error:
        read(*words, **options)
    return str(error.value)


def rates(output: Output) -> list[float]:
    """The learning rate of each iteration."""
    return [line["lr"] for line in output.metrics()]


def iterations(output: Output) -> list[int]:
    """The iterations in metrics.jsonl."""
    return [line["iteration"] for line in output.metrics()]
