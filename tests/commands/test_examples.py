"""The examples: what their scripts call exists, their texts are what they say, and both languages agree."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fm9g.__main__ as command
from fm9g.data.stream.mixture import read_mixture
from fm9g.settings import fields
from fm9g.training.settings import Settings, read_train_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOT = EXAMPLES.parent
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())
each_example = pytest.mark.parametrize("name", NAMES)


def commands(script: Path) -> list[list[str]]:
    """The words after `fm9g` in a shell script."""
    text = script.read_text("utf-8").replace("\\\n", " ")
    text = re.sub(r"\(fm9g ([^)]*)\)", lambda found: "\nfm9g " + found[1].replace("\n", " ") + "\n", text)
    return [shlex.split(line)[1:] for line in re.findall(r"(?m)(?:^| )(fm9g .*)$", re.sub(r"(?m)^ *#.*", "", text))]


@each_example
def test_pages_and_scripts_are_there_in_both_languages(name):
    pages = [(EXAMPLES / name / page).read_text("utf-8") for page in ("README.md", "README.zh.md")]
    english, chinese = (re.findall(r"(?m)^ {4}(\S.*)$", page) for page in pages)
    assert english == chinese
    assert f"bash examples/{name}/run.sh" in english
    for page in pages:
        for script in re.findall(r"`(\w+\.(?:py|sh))`", page):
            assert (EXAMPLES / name / script).is_file(), script
        for link in re.findall(r"\]\(([^)#]+)", page):
            assert (EXAMPLES / name / link).exists(), link


@each_example
def test_commands_of_the_scripts_exist_with_their_flags(name, monkeypatch, capsys):
    found = [words for script in (EXAMPLES / name).glob("*.sh") for words in commands(script)]
    assert any(words[0] == "train" for words in found)
    for verb, *words in found:
        flags = {word[2:].replace("_", "-") for word in words if word.startswith("--")}
        if verb == "train":
            known = {field.replace("_", "-") for field in fields(Settings)}
        else:
            monkeypatch.setattr(sys, "argv", ["fm9g", verb, *words[: verb == "convert"], "--help"])
            with pytest.raises(SystemExit, match="0"):
                command.main()
            known = set(re.findall(r"--([a-z][a-z-]*)", capsys.readouterr().out))
        assert flags <= known, verb


@each_example
def test_files_that_the_scripts_name_exist(name):
    for script in (EXAMPLES / name).glob("*.sh"):
        text = script.read_text("utf-8")
        for path in re.findall(r"(?:examples|tools)/[\w/]+\.(?:py|sh|json)", text):
            assert (ROOT / path).is_file(), path
        for path in re.findall(r"\$here/([\w/]+\.(?:py|sh|json))", text):
            assert (EXAMPLES / name / path).is_file(), path


def test_settings_and_mixtures_are_valid():
    for path in EXAMPLES.glob("*/train_configs/*.json"):
        assert read_train_config(path)["lr"] <= 1e-4  # they are for trained weights
    for path in EXAMPLES.glob("*/mixture.json"):
        entries = json.loads(path.read_text("utf-8"))
        assert [source.share for source in read_mixture(path)] == [entry["abs_weight"] for entry in entries]
        assert all(entry["path"].startswith("out/") for entry in entries)


def test_the_texts(tmp_path):
    for name, files in (
        ("zh_en_mixture", ("zh.txt", "en.txt")),
        ("continued_pretraining", ("train.txt", "held_out.txt")),
    ):
        program = EXAMPLES / name / "make_texts.py"
        subprocess.run([sys.executable, program, tmp_path], check=True, timeout=60)
        assert all(len((tmp_path / file).read_text("utf-8").splitlines()) > 100 for file in files)
    sums = (tmp_path / "zh.txt").read_text("utf-8")
    assert "一共有二十个" in sums
    assert not re.search(r"零十|十零|一十", sums)
    train, held_out = ((tmp_path / name).read_text("utf-8").splitlines() for name in ("train.txt", "held_out.txt"))
    assert not set(train) & set(held_out)


@pytest.mark.parametrize("name", ["finetune_real_model", "belle_and_calm"])
def test_outputs_of_another_model_are_not_gone_on_with(name, tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("out"))
    out = tmp_path / f"examples/{name}/out"
    out.mkdir()
    (out / "made_of").write_text("models/a data/a.json\n")
    script = ["bash", f"examples/{name}/run.sh", "models/b", "data/b.json"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "out is made of models/a data/a.json: move it away" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["made_of"]
