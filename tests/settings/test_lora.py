"""LoRA: defaults, what is refused, and what each setting does."""

import pytest

from fm9g.lora.settings import LoraSettings
from tests.settings.helpers import defaults, refused, sees
from tests.support.runs_here import command_here

DEFAULTS = {"lora_layer": None, "lora_r": None, "lora_alpha": None, "lora_dropout": None}


def test_defaults():
    assert defaults(LoraSettings) == DEFAULTS


@sees("lora_layer", "lora_r", "lora_alpha", "lora_dropout")
@pytest.mark.parametrize(
    ("name", "value"), [("lora_layer", "['project_q']"), ("lora_r", 16), ("lora_alpha", 32), ("lora_dropout", 0.1)]
)
def test_lora_belongs_to_a_later_version(place, tmp_path, name, value):
    assert f"{name} belongs to LoRA" in refused(f"--{name}", str(value))
    result = command_here(place.words(tmp_path, **{name: value}))
    assert result.returncode == 1
    assert name in result.output
    assert not list(tmp_path.iterdir())
