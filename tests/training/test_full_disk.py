"""What a run reports on a disk that is full for a while: the run goes on, and what it could not write comes later."""

import contextlib
import resource
import signal

import pytest

from fm9g.files import AppendedLines
from fm9g.training.board import Board
from fm9g.training.metrics import MetricsWriter
from tests.support.outputs import Output
from tests.training.test_metrics import metrics


@contextlib.contextmanager
def full_disk(most):
    """No file can be larger than so many bytes meanwhile: a write beyond is cut, and the next fails."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_lines_are_whole_or_not_there(tmp_path):
    path = tmp_path / "lines"
    lines = AppendedLines(path)
    lines.add("first\n")
    with full_disk(10):
        for line in ("second\n", "third\n"):
            with pytest.raises(OSError, match="too large"):
                lines.add(line)
            assert path.read_text() == "first\n"
    lines.add("fourth\n")
    assert path.read_text() == "first\nsecond\nthird\nfourth\n"


def test_the_last_line_can_be_replaced_on_the_disk_and_while_it_waits(tmp_path):
    path = tmp_path / "lines"
    lines = AppendedLines(path)
    lines.add("first\n")
    lines.add("second\n")
    lines.replace_last("other\n")
    assert path.read_text() == "first\nother\n"
    with full_disk(14):
        with pytest.raises(OSError, match="too large"):
            lines.add("third\n")
        with pytest.raises(OSError, match="too large"):
            lines.replace_last("fourth\n")
    lines.close()
    assert path.read_text() == "first\nother\nfourth\n"


def test_metrics_wait_for_room_and_that_is_said_once(tmp_path, capsys):
    logs = tmp_path / "checkpoints/logs/u"
    logs.mkdir(parents=True)
    writer = MetricsWriter(logs, tmp_path / "tensorboard", 1, False)
    writer.write(metrics(1))
    with full_disk(1000):
        for step in (2, 3, 4):
            writer.write(metrics(step))
    writer.write(metrics(5))
    writer.close()
    assert [line["iteration"] for line in Output(tmp_path).metrics()] == [1, 2, 3, 4, 5]
    said = capsys.readouterr().err
    assert said.count("warning: metrics.jsonl cannot be written") == 1
    assert said.count("metrics.jsonl can be written again") == 1


def test_points_after_a_full_disk_are_in_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr("fm9g.training.board._AGAIN_SECONDS", 0.0)
    folder = tmp_path / "tensorboard"
    board = Board(folder, 1)
    board.add_scalars({"a": 1.0}, 1)
    board.flush()
    with full_disk(1), contextlib.suppress(OSError):
        for step in range(2, 2000):
            board.add_scalars({"a": float(step)}, step)
    board.add_scalars({"a": 5.0}, 5000)
    board.close()
    assert len(list(folder.glob("events.*"))) >= 2
    first, *_, last = Output(tmp_path).events()["a"]
    assert (first, last) == ((1, 1.0), (5000, 5.0))
