"""tools/serve.py as users run it, and on ranks that share a model."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.serve.conftest import TEMPLATE, Forms
from tests.support.processes import wait_until
from tests.support.ranks import environment, free_port, run_ranks
from tests.support.tools import TOOLS, run_tool_here

TOGETHER = """
import threading, sys
from pathlib import Path
import fm9g.serve.text_model as text_model
from fm9g import runtime
from fm9g.serve.source import find_source
from fm9g.serve.worker import Job, Worker
text_model.fits = lambda model: False
runtime.initialize()
with text_model.load(find_source(Path(sys.argv[1]), None), None, "chatml", None) as model:
    worker = Worker(model)
    if runtime.rank():
        worker.follow()
    else:
        thread = threading.Thread(target=worker.run)
        thread.start()
        for text in ("Why?", "w " * 300, "What is a lane?"):
            steps, over = [], threading.Event()
            def emit(step):
                steps.append(step) if isinstance(step, list) else (steps.append(step), over.set())
            prompt = model.chat_prompt({"messages": [{"role": "user", "content": text}]})
            worker.submit(Job([prompt], text_model.Request(20), True, emit))
            over.wait(60)
            said = "".join(piece.text for step in steps[:-1] for piece in step)
            print("SAID", repr(said), steps[-1], flush=True)
        worker.close()
        thread.join()
"""


def test_ranks_that_share_a_model_answer_together(forms: Forms, tmp_path: Path) -> None:
    done = run_ranks(TOGETHER, 2, tmp_path, [forms.folder])
    assert done.returncode == 0, done.output
    first, second, third = [line for line in done.output.splitlines() if "SAID" in line]
    assert first.endswith(" None") and third.endswith(" None")
    assert "the model takes 256" in second  # and the ranks go on together


def _interruptible() -> None:
    """As from a terminal: whatever a shell starts in the background inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_it_serves_until_it_is_told_to_end(forms: Forms, tmp_path: Path) -> None:
    port = free_port()
    words = ["--model", str(forms.run), "--port", str(port), "--page", "--name", "ours"]
    with open(tmp_path / "log", "w") as log:
        command = [sys.executable, str(TOOLS / "serve.py"), *words]
        process = subprocess.Popen(command, stderr=log, env=environment(), cwd=tmp_path, preexec_fn=_interruptible)
    try:
        told = lambda: (tmp_path / "log").read_text()  # noqa: E731
        wait_until(lambda: "serving ours" in told() or process.poll() is not None, "the server")
        assert f"note: questions are put by the template {TEMPLATE}" in told()

        def models() -> list[str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as response:
                return [model["id"] for model in json.load(response)["data"]]

        def answers() -> bool:
            try:
                return models() == ["ours"]
            except OSError:
                return False

        wait_until(answers, "the port")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
            assert b"</html>" in response.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in told()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--port", "0"], "port must be from 1 to 65535"), (["--temperature", "-1"], "temperature must be at least 0")],
)
def test_bad_flags_are_refused(words: list[str], says: str, forms: Forms, tmp_path: Path) -> None:
    done = run_tool_here("serve.py", ["--model", str(forms.run), *words], tmp_path)
    assert done.returncode == 1
    assert says in done.output


def test_a_port_that_is_taken_is_told(forms: Forms, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["--model", str(forms.run), "--port", str(taken.getsockname()[1])]
        command = [sys.executable, str(TOOLS / "serve.py"), *words]
        done = subprocess.run(command, capture_output=True, env=environment(), cwd=tmp_path, timeout=60, text=True)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr and "Traceback" not in done.stderr
    assert "runtime: " not in done.stderr  # nothing was loaded before
