"""A conversation in the terminal: answers appear as they are made."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from typing import Any

from fm9g import runtime
from fm9g.errors import UserError
from fm9g.serve.text_model import Request, TextModel

_PATIENCE = 60.0  # seconds
HELP = "/clear begins anew, /system TEXT sets the system text and begins anew, /exit or Ctrl-D ends"


def stream(model: TextModel, prompt: list[int], request: Request, chat: bool) -> str:
    """Print what follows a prompt as it comes, on the first rank; return it. Ctrl-C ends it, of a single rank."""
    said = ""
    stopping = (
        contextlib.suppress(KeyboardInterrupt) if chat and runtime.world_size() == 1 else contextlib.nullcontext()
    )
    with stopping:
        for step in model.generate([prompt], request, chat):
            said += step[0].text
            if runtime.rank() == 0:
                print(step[0].text, end="", flush=True)
    if runtime.rank() == 0:
        print(flush=True)
    return said


def chat(model: TextModel, request: Request, system: str) -> None:
    """Ask the person and answer, until they end it."""
    if runtime.rank() == 0:
        print(HELP, file=sys.stderr)
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  lines can be edited, and earlier ones come back
    turns: list[dict[str, str]] = []
    while (line := _line()) is not None:
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return
        if word in ("/clear", "/system"):
            turns, system = [], rest.strip() if word == "/system" else system
        elif word.startswith("/") and word[1:].isalpha():
            if runtime.rank() == 0:
                print(f"there is no {word}: {HELP}", file=sys.stderr)
        elif line.strip():
            turns.append({"role": "user", "content": line})
            _answer(model, turns, system, request)


def _answer(model: TextModel, turns: list[dict[str, str]], system: str, request: Request) -> None:
    """Answer the last turn; it is forgotten if it cannot be answered."""
    try:
        prompt = _prompt(model, turns, system, request.max_new_tokens)
    except UserError as error:
        turns.pop()
        if runtime.rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        return
    said = stream(model, prompt, request, True)
    if said.strip():
        turns.append({"role": "assistant", "content": said})
    else:
        turns.pop()


def _prompt(model: TextModel, turns: list[dict[str, str]], system: str, answer: int) -> list[int]:
    """The prompt of a conversation, without its earliest rounds where they leave no room for an `answer` of so many
    tokens, or of a quarter of the model's."""
    while True:
        record: dict[str, Any] = {"messages": turns, **({"system": system} if system else {})}
        prompt = model.chat_prompt(record)
        if len(turns) < 3:
            model.check_room(prompt)
            return prompt
        if len(prompt) + min(answer, model.max_length // 4) <= model.max_length:
            return prompt
        del turns[:2]
        if runtime.rank() == 0:
            print("note: the conversation is too long: its first round is forgotten", file=sys.stderr)


def _line() -> str | None:
    """The next line that the person writes, on every rank; None at the end."""
    if runtime.world_size() == 1:
        return _typed()
    typed: list[str | None] = []
    if runtime.rank() == 0:
        reader = threading.Thread(target=lambda: typed.append(_typed()), daemon=True)
        reader.start()
    while True:  # ranks that wait for each other longer than some minutes are taken for dead
        if runtime.rank() == 0:
            reader.join(_PATIENCE)
        told = json.loads(runtime.gather_bytes(json.dumps(typed).encode())[0])
        if told:
            return told[0]  # type: ignore[no-any-return]


def _typed() -> str | None:
    """A line of the person's; None at the end."""
    try:
        text = input("> ")
    except EOFError:
        return None
    if not sys.stdin.isatty():  # which shows what is typed
        print(text, flush=True)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
