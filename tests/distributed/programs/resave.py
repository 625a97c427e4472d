"""Load a checkpoint as ranks of a run do, and save it again as it was loaded.

arguments: the checkpoint's folder, the folder to save in, tp_size, and the run's settings
"""

from __future__ import annotations

import sys
from pathlib import Path

from fm9g import runtime
from fm9g.checkpoint import weights_files
from fm9g.checkpoint.contents import Contents
from fm9g.checkpoint.saved import Saved
from fm9g.checkpoint.weights import weights_of
from fm9g.checkpoint.writer import CheckpointWriter
from fm9g.training.inputs import read_model_config
from fm9g.training.learner import Learner
from fm9g.training.settings import read_settings
from fm9g.training.start import start_from

source, target, tp_size, *words = sys.argv[1:]
weights_files.SHARD_BYTES = 10_000  # several shards
settings = read_settings([*words, "--tp_size", tp_size, "--resume_ckpt", Path(source).name])
runtime.initialize(settings.seed, settings.tp_size)
saved = Saved.read(Path(source), "training")
learner = Learner(settings, read_model_config(settings))
learner.load(start_from(settings, Path(source).parent, int(Path(source).name)), saved)
state = {**saved.state, "ranks": runtime.world_size()}
state["settings"] |= {"tp_size": settings.tp_size}
contents = Contents(learner.files(), state, weights_of(learner.model, learner.saved_names, settings.save_format))
wrong = CheckpointWriter(Path(target), int(Path(source).name), runtime.gather_bytes).write(contents)
assert not wrong, wrong
