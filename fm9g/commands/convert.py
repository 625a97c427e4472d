"""Convert weights from and to Hugging Face: two commands, of which the first word chooses one."""

from __future__ import annotations

from fm9g.commandline import choose

USAGE = "usage: fm9g convert from-huggingface|to-huggingface [--flag value ...]"
DIRECTIONS = {
    "from-huggingface": ("fm9g.commands.from_huggingface", "a Hugging Face folder to a .pt that training starts from"),
    "to-huggingface": ("fm9g.commands.to_huggingface", "a .pt to a Hugging Face folder"),
}


def main() -> None:
    """Run the command line."""
    choose("fm9g convert", USAGE, DIRECTIONS)
