"""Pretraining: the program that a launcher starts once for each rank."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from fm9g import launcher, signals
from fm9g.errors import UserError, run_command
from fm9g.settings import help_text
from fm9g.training.inputs import APP, open_inputs
from fm9g.training.settings import Settings, read_settings


def main(app: Path = APP) -> None:
    """Run the command line; `app` is the folder of the app."""
    if "-h" in sys.argv or "--help" in sys.argv:
        print(help_text(Settings))
        return
    settings = read_settings(sys.argv[1:], os.environ.get("FM9G_ARGS_TABLE", ""))
    if not settings.dry_run:
        signals.listen(lambda: launcher.leave(launcher.FINAL, "a second signal"))
    if launcher.attempt() and (reason := launcher.left(launcher.FINAL)) is not None:
        raise UserError(f"not started anew: {reason}")
    inputs = open_inputs(settings, app)
    if launcher.attempt() and not launcher.is_as_it_was(inputs.folder.checkpoints / "latest"):
        restarted = dataclasses.replace(
            inputs.settings,
            resume_ckpt="latest",  # what this run has written goes on whole, however it was begun
            only_load_model=None,
            load_grad=None,
            load_dataloader_ckpt=None,
        )
        inputs = dataclasses.replace(inputs, settings=restarted)
    if settings.dry_run:
        from fm9g.training.dry_run import report

        print(report(inputs), flush=True)
        return
    from fm9g.training.run import run

    run(inputs)


if __name__ == "__main__":
    run_command(main)
