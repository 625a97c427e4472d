"""Flags of other trainers' guides: refused with what they are here."""

import re

import pytest

from fm9g.settings import fields
from fm9g.training.other_trainers import ELSEWHERE, SAME
from fm9g.training.settings import Settings
from tests.settings.helpers import refused
from tests.support.sources import ROOT

KNOWN = set(fields(Settings))
ONE_NAME = re.compile(r"^([a-z_]+)(?:[,:;] .*)?$")


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_a_flag_of_theirs_is_refused_with_what_it_is_here(flag):
    message = refused(f"--{flag}", "1")
    assert message == f"command line: {flag!r} is another trainer's; here: {ELSEWHERE[flag].here}"


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_what_is_named_is_there(flag):
    """The setting that each begins with, and the tools."""
    here = ELSEWHERE[flag].here
    if (found := ONE_NAME.match(here)) and found[1] != "nothing":
        assert found[1] in KNOWN
    for tool in re.findall(r"tools/\w+\.py", here + ELSEWHERE[flag].chinese):
        assert (ROOT / tool).exists()


def test_no_flag_of_theirs_is_a_setting():
    assert not KNOWN & set(ELSEWHERE)
    assert set(SAME) <= KNOWN


def test_a_config_file_with_their_flags_is_refused_too(tmp_path, monkeypatch):
    (tmp_path / "model_configs").mkdir()
    (tmp_path / "train_configs").mkdir()
    (tmp_path / "model_configs/m.json").write_text("{}")
    (tmp_path / "train_configs/m.json").write_text('{"learning_rate": 1e-5}')
    monkeypatch.chdir(tmp_path)
    assert "m.json: 'learning_rate' is another trainer's; here: lr" in refused("--config", "m")
