"""pretrain.py that stops after it has written the metrics of iteration FM9G_TEST_PAUSE, to be killed there.

It goes on when it is asked to stop, unless FM9G_TEST_DEAF is set.
"""

import os
import runpy
import time
from pathlib import Path

from fm9g import runtime  # before anything imports bmtrain
from fm9g.training.metrics import Metrics, MetricsWriter
from fm9g.training.stopping import Stopping

assert runtime.backend
write = MetricsWriter.write


def write_and_pause(self: MetricsWriter, metrics: Metrics) -> None:
    write(self, metrics)
    if metrics.iteration == int(os.environ["FM9G_TEST_PAUSE"]):
        stopping = Stopping(None)
        while "FM9G_TEST_DEAF" in os.environ or not stopping.asked():
            time.sleep(0.05)


MetricsWriter.write = write_and_pause  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).resolve().parents[2] / "apps/fm9g_7b/pretrain.py"), run_name="__main__")
