"""FM9G: pretraining and finetuning of CPM-style language models on BMTrain."""

import os

# OpenMP's threads wait for each other by spinning. Where other work shares the cores, that costs most of the time (a
# training step took 3 times as long on 2 busy cores), so they sleep; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
