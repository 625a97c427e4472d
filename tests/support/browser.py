"""A headless Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2) by chromedriver, both from Debian."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.processes import wait_until
from tests.support.ranks import free_port

DRIVER, CHROMIUM = shutil.which("chromedriver"), shutil.which("chromium")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element, by the standard
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
_FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic"]


class Browser:
    """One window; a context manager."""

    def __init__(self, folder: Path, width: int = 1200, height: int = 800, language: str = "en") -> None:
        self._flags = [*_FLAGS, f"--window-size={width},{height}", f"--lang={language}", f"--user-data-dir={folder}"]
        self._language = language

    def __enter__(self) -> Browser:
        assert DRIVER and CHROMIUM
        port = free_port()
        self._process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
        self._root = f"http://127.0.0.1:{port}"
        wait_until(self._is_up, "chromedriver")
        options = {"binary": CHROMIUM, "args": self._flags, "prefs": {"intl.accept_languages": self._language}}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._root += f"/session/{self._ask('/session', {'capabilities': wanted})['sessionId']}"
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # the driver ends the browser; without it, that would go on
            self._ask("", method="DELETE")
        self._process.kill()
        self._process.wait()

    def _is_up(self) -> bool:
        try:
            return bool(self._ask("/status")["ready"])
        except OSError:
            return False

    def _ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self._root + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, address: str) -> None:
        """Go to a page."""
        self._ask("/url", {"url": address})

    def run(self, script: str) -> Any:
        """What a script of the page returns."""
        return self._ask("/execute/sync", {"script": script, "args": []})

    def write(self, selector: str, text: str) -> None:
        """Type into an element, as from a keyboard; \\ue007 is Enter."""
        self._ask(f"/element/{self._element(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._ask(f"/element/{self._element(selector)}/click", {})

    def _element(self, selector: str) -> str:
        return str(self._ask("/element", {"using": "css selector", "value": selector})[_ELEMENT])

    def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("/screenshot")))
