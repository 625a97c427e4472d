"""README and docs against the code: generated pages, links, scripts, flags, and the table of what is replaced."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fm9g.data.stream import mixture
from fm9g.runtime.replacements import FUNCTIONS, MODULES
from fm9g.settings import fields
from fm9g.training.metrics import Metrics
from fm9g.training.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for names in ("README*.md", "CONTRIBUTING*.md", "docs/*.md") for path in ROOT.glob(names))
ENGLISH = [page for page in PAGES if not page.name.endswith(".zh.md")]
SETTINGS_PAGE = ROOT / "tools" / "settings_page.py"
SCRIPT = re.compile(r"\b(?:python|bash) ((?:tools|apps)/[\w/]+\.(?:py|sh))([^`\n]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACEHOLDERS = {"name", "setting"}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands(page: Path) -> list[tuple[str, str]]:
    """(script, arguments) of every command in a page."""
    return [(found[1], found[2]) for found in SCRIPT.finditer(page.read_text("utf-8"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def known_flags(script: str) -> set[str]:
    """The flags that a script takes, with dashes."""
    if script.endswith(".sh"):
        return {name.replace("_", "-") for name in fields(Settings)} | {"help"} | PLACEHOLDERS
    shown = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    return set(re.findall(r"--([a-z0-9][a-z0-9-]*)", shown))


def test_there_are_two_languages_of_every_page() -> None:
    assert PAGES
    for page in ENGLISH:
        assert page.with_suffix(".zh.md").exists()
        assert f"({page.stem}.zh.md)" in page.read_text("utf-8")
        assert f"({page.name})" in page.with_suffix(".zh.md").read_text("utf-8")


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_scripts_exist_and_take_the_flags(page: Path) -> None:
    for script, arguments in commands(page):
        assert (ROOT / script).exists(), script
        for flag in re.findall(r"--([\w-]+)", arguments):
            assert flag.replace("_", "-") in known_flags(script), f"{script} --{flag}"


@each_page
def test_flags_named_in_the_text_exist(page: Path) -> None:
    """A lone `--flag` must be one of some command."""
    scripts = {script for other in PAGES for script, _ in commands(other)}
    scripts |= {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")}
    known = set().union(*map(known_flags, scripts))
    text = FENCE.sub("", page.read_text("utf-8"))
    for flag in re.findall(r"`--([\w-]+)[^`]*`", text):
        assert flag.replace("_", "-") in known, flag


def test_both_readmes_have_the_same_commands() -> None:
    english, chinese = (
        re.findall(r"^ {4}(\S.*)$|^(\w.*(?:EOF|\)))$", (ROOT / name).read_text("utf-8"), re.MULTILINE)
        for name in ("README.md", "README.zh.md")
    )
    assert english == chinese


@pytest.mark.parametrize("name", ["data", "training", "runtime", "architecture"])
def test_both_languages_name_the_same_code(name: str) -> None:
    """Everything in backquotes that a reader could type is in both."""
    english, chinese = (
        sorted(set(re.findall(r"`([\w./<>-]+)`", (ROOT / "docs" / f"{name}{suffix}.md").read_text("utf-8"))))
        for suffix in ("", ".zh")
    )
    assert english == chinese


@pytest.mark.parametrize("suffix", ["", ".zh"])
def test_the_replacements_are_listed(suffix: str) -> None:
    text = (ROOT / "docs" / f"runtime{suffix}.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", text, re.MULTILINE))
    expected = {name: why for name, (_, why) in MODULES.items()} | {item.where: item.why for item in FUNCTIONS}
    assert expected.keys() <= rows.keys()
    listed = {name for name in rows if name.startswith(("bmtrain.", "init.", "optim.", "store.", "zero_context."))}
    assert listed == set(expected)
    if not suffix:
        assert {name: rows[name] for name in expected} == expected


@pytest.mark.parametrize("suffix", ["", ".zh"])
def test_the_keys_of_metrics_are_listed(suffix: str) -> None:
    text = (ROOT / "docs" / f"training{suffix}.md").read_text("utf-8")
    names = {item.name for item in dataclasses.fields(Metrics)} - {"evaluated"}
    for name in (*names, "eval_loss", "eval_perplexity", "eval_task_loss", "eval_seen"):
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("suffix", ["", ".zh"])
def test_the_keys_of_a_mixture_are_listed(suffix: str) -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / f"data{suffix}.md").read_text("utf-8"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert mixture._KINDS.keys() <= named


@pytest.mark.parametrize("script", ["templates_page.py", "models_page.py"])
def test_generated_pages_are_up_to_date(script: str) -> None:
    page = ROOT / "tools" / script
    done = subprocess.run([sys.executable, str(page), "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_settings_pages_are_up_to_date(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SETTINGS_PAGE), "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for language, name in (("en", "settings.md"), ("zh", "settings.zh.md")):
        copy = tmp_path / name
        command = [sys.executable, str(SETTINGS_PAGE), "--language", language, "--output", str(copy)]
        subprocess.run(command, check=True, timeout=120)
        assert copy.read_text("utf-8") == (ROOT / "docs" / name).read_text("utf-8")
        for setting in fields(Settings):
            assert f"| `{setting}` |" in copy.read_text("utf-8")
