"""The page, in a real browser. Collected where Debian's Chromium and its driver are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fm9g.serve.source import find_source
from fm9g.serve.text_model import Request, load
from tests.serve.conftest import TEMPLATE, Forms
from tests.serve.test_api import KEY, QUESTION, Serving, serving
from tests.support.browser import Browser
from tests.support.processes import wait_until

ANSWERS = "return [...document.querySelectorAll('.assistant')].map(turn => turn.textContent)"
TOLD = "return [...document.querySelectorAll('.told')].map(turn => turn.textContent)"


@pytest.fixture
def server(forms: Forms) -> Iterator[Serving]:
    yield from serving(load(find_source(forms.folder, None), None, TEMPLATE, None), page=True, key=KEY)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        yield browser


def test_a_question_is_typed_and_an_answer_appears(server: Serving, browser: Browser) -> None:
    expected = server.model.answers(
        [server.model.chat_prompt({"messages": [{"role": "user", "content": QUESTION}]})], Request(30), True
    )[0]
    browser.open(f"{server.address}/")
    browser.write("#key", f"{KEY}\ue007")
    browser.run(
        "for (const [id, value] of [['temperature', 0], ['top_p', 1]]) document.getElementById(id).value = value"
    )
    browser.run("document.getElementById('key').dispatchEvent(new Event('change'))")
    wait_until(lambda: browser.run("return document.title") == "tiny", "the model's name")
    browser.write("#question", f"{QUESTION}\ue007")
    wait_until(lambda: len(browser.run(TOLD)) == 1, "the answer")
    assert browser.run(ANSWERS) == [expected]
    assert "tokens, " in browser.run(TOLD)[0]
    browser.write("#question", "<b>Again</b>")
    browser.click("#send")
    wait_until(lambda: len(browser.run(TOLD)) == 2, "the second answer")
    assert browser.run("return document.querySelectorAll('.user')[1].textContent") == "<b>Again</b>"
    browser.click("#clear")
    assert browser.run(ANSWERS) == []


def test_what_is_wrong_is_told(server: Serving, browser: Browser) -> None:
    browser.open(f"{server.address}/")
    browser.write("#question", "Who are you?\ue007")
    wait_until(lambda: browser.run(TOLD) == ["a wrong API key, or none"], "the error")
