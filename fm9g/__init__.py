"""FM9G: pretraining and finetuning of CPM-style language models on BMTrain."""

import os

# OpenMP's threads wait for each other by spinning, for milliseconds unless told otherwise. Where other work shares the
# cores that multiplies the time of a training step; not spinning at all makes one on free cores a third slower. Some
# microseconds give nearly the best of both. GNU's OpenMP reads this when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
