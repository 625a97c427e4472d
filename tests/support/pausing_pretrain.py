"""pretrain.py that stops for good after it has written the metrics of iteration FM9G_TEST_PAUSE, to be killed there."""

import os
import runpy
import signal
from pathlib import Path

from fm9g import runtime  # before anything imports bmtrain
from fm9g.training.metrics import Metrics, MetricsWriter

assert runtime.backend
write = MetricsWriter.write


def write_and_pause(self: MetricsWriter, metrics: Metrics) -> None:
    write(self, metrics)
    if metrics.iteration == int(os.environ["FM9G_TEST_PAUSE"]):
        signal.pause()


MetricsWriter.write = write_and_pause  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).resolve().parents[2] / "apps/fm9g_7b/pretrain.py"), run_name="__main__")
