"""The error that users are meant to read, and how to name what they probably meant."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator


class UserError(ValueError):
    """Something the user gave is wrong: the message says what, where and what to do about it."""


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Put `what` before the message of a UserError: it is of that that it says something."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def say(message: str) -> None:
    """A line on stderr, at once. Where that cannot be written there is nobody to tell, and no reason to end."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def closest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to `name`, or an empty string."""
    name = nearest(name, known)
    return f" (did you mean {name!r}?)" if name else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to `name`, or an empty string where none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.54)), "")


def shown(value: object, width: int = 80) -> str:
    """What a user gave as an error message repeats it: as Python writes it, cut to `width` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of over 4,300 digits; nested too deeply
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= width else text[: width - 1] + "…"


def run_command(main: Callable[[], None]) -> None:
    """Run a command-line `main`; a UserError or OSError becomes one line on stderr and exit status 1."""
    try:
        main()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
