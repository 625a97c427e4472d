"""What a run says of its settings."""

import dataclasses
import json

from fm9g.settings import changed, told_lines
from fm9g.training.settings import read_settings
from tests.settings.helpers import read


def test_settings_are_told_with_their_sources():
    lines = told_lines(read_settings(["--config", "tiny", "--lr", "1e-5", "--seed", "7"], "batch_size=3"))
    assert all(len(line) <= 120 for line in lines)
    told = "\n".join(lines)
    assert "command line: config tiny, seed 7, lr 1e-05" in told
    assert "the args table of run_bmtrain.sh: " not in told  # train_configs/tiny.json has another batch_size
    (line,) = [line for line in lines if line.startswith("train_configs/tiny.json: ")]
    assert "max_length 256, batch_size 4" in line
    assert lines.index(line) < [line.startswith("default: ") for line in lines].index(True)
    assert "weight_decay 0.1" in told
    assert "lora_r" not in told


def test_a_resumed_run_tells_what_it_has_otherwise():
    before = json.loads(json.dumps(dataclasses.asdict(read("--lr", "1e-4"))))
    assert changed(before, read("--lr", "1e-4")) == []
    assert changed(before, read()) == ["lr is 0.01 (default), it was 0.0001"]
