"""Convert weights from and to Hugging Face: of these commands the first word chooses one."""

from __future__ import annotations

from fm9g.commandline import choose

USAGE = "usage: fm9g convert from-huggingface|to-huggingface|merge-peft [--flag value ...]"
DIRECTIONS = {
    "from-huggingface": ("fm9g.commands.from_huggingface", "a Hugging Face folder to a .pt that training starts from"),
    "to-huggingface": ("fm9g.commands.to_huggingface", "weights of ours to a Hugging Face folder, adapters to PEFT's"),
    "merge-peft": ("fm9g.commands.merge_peft", "a PEFT adapter into its Hugging Face model"),
}


def main() -> None:
    """Run the command line."""
    choose("fm9g convert", USAGE, DIRECTIONS)
