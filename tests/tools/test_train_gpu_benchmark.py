"""benchmarks/train_gpu.py, at toy size on a CPU: what it measures, and what it makes of that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.train_gpu import SHAPES, covered, flops, line, measure
from tests.support.ranks import REPOSITORY, environment

TOY = SHAPES["toy"]


@pytest.mark.parametrize(
    ("intervals", "length"),
    [
        ([], 0),
        ([(1, 2)], 1),
        ([(3, 5), (1, 2)], 3),
        ([(1, 4), (2, 3)], 3),  # one within another
        ([(1, 3), (2, 5), (5, 6)], 5),  # overlapping, touching
    ],
)
def test_kernels_that_run_at_once_count_once(intervals: list[tuple[float, float]], length: float) -> None:
    assert covered(intervals) == length


def test_flops_are_six_a_parameter_and_token_and_those_of_attention() -> None:
    layers, width, feed_forward, vocabulary, tokens = 2, 64, 128, 512, 100
    matrices = layers * (4 * width * width + 3 * width * feed_forward) + width * vocabulary
    norms = (2 * layers + 1) * width
    # scores and their use: 2 products forward and 4 backward, 2 FLOPs for each of heads · dim_head · tokens²
    attention = layers * 12 * width * tokens**2
    assert flops(TOY, tokens, causal=False) == 6 * (matrices + norms) * tokens + attention
    assert flops(TOY, tokens, causal=True) == 6 * (matrices + norms) * tokens + attention / 2


def test_a_line_says_speed_use_and_memory() -> None:
    found = {"seconds": 0.5, "bytes": 3 * 2**30, "outside": 0.25}
    words = line("toy", "ours", TOY, 100, found, peak=10 * flops(TOY, 100, causal=False)).split()
    assert (words[3], words[4], words[6], words[7]) == ("200", "20.0%", "3.0", "25.0%")
    assert line("toy", "ours", TOY, 100, {}, None).endswith("out of memory")


@pytest.mark.parametrize("side", ["bf16", "autocast"])
def test_the_peers_train(side: str, tmp_path: Path) -> None:
    found = measure(side, TOY, 32, steps=1, profile=tmp_path / "kernels.txt")
    assert found["seconds"] > 0
    assert found["outside"] is None  # there is no GPU to have run kernels
    assert "mm" in (tmp_path / "kernels.txt").read_text()


def test_the_table_says_how_fast_ours_is(tmp_path: Path) -> None:
    words = ["--shapes", "toy", "--lengths", "32", "--sides", "ours", "--steps", "1"]
    command = [sys.executable, "benchmarks/train_gpu.py", *words]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].split()[:3] == ["toy", "32", "ours"]
