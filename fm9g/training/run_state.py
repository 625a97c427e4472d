"""What state.json of a checkpoint holds of every run, with or without a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from fm9g import runtime
from fm9g.settings import fields
from fm9g.training.run_stream import RunStream
from fm9g.training.settings import Settings


def run_state(stream: RunStream, kind: str) -> dict[str, Any]:
    """Progress, data, ranks, settings and model of a run; every rank must call it."""
    inputs = stream.inputs
    stream.progress.stream_sha256 = stream.digest.fold()
    return {
        "kind": kind,
        "progress": dataclasses.asdict(stream.progress),
        "stream": stream.description(),
        "ranks": runtime.world_size(),
        "settings": {name: getattr(inputs.settings, name) for name in fields(Settings)},
        "model": inputs.model_config.to_dict(),
    }
