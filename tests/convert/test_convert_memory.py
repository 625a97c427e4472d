"""A conversion's memory does not grow with the model: peak resident size, mapped pages included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fm9g.convert.families import bloom
from fm9g.convert.hf_config import family_for, huggingface_config
from fm9g.convert.layouts import groups
from fm9g.files import write_json
from fm9g.model.config import ModelConfig

SHAPE: dict[str, Any] = {"vocab_size": 16000, "dim_model": 1024, "num_heads": 8, "num_layers": 8, "dtype": "bf16"}
CONFIGS = {
    "llama": ModelConfig(**SHAPE, dim_ff=2816),
    # rows of queries, keys and values by turns in one tensor
    "bloom": ModelConfig(
        **{**SHAPE, "num_layers": 12}, dim_ff=4096, activate_fn="gelu_tanh", max_length=2048, **bloom.OWN
    ),
    # a tensor for each expert, stacked in ours
    "mixtral": ModelConfig(
        **{**SHAPE, "num_layers": 4}, dim_ff=1024, num_experts=8, experts_per_token=2, norm_expert_weights=True
    ),
}
ALLOWED_MB = 100  # the model has 271 MB, its shards up to 40 MB

MEASURED = """
import re, sys
from pathlib import Path
from fm9g.tensors import readers
from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain

readers.REMAP_BYTES = 32 << 20  # in proportion to the model
source, checkpoint, target = map(Path, sys.argv[2:])
# Not ru_maxrss, which starts at what the process that started this one had.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
if sys.argv[1] == "to_bmtrain":
    huggingface_to_bmtrain(source, checkpoint)
else:
    with_reference(source, checkpoint, target, max_shard_size="40MB")
print((peak() - before) / 1024)
"""


@pytest.fixture(params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder, config = tmp_path / "source", CONFIGS[request.param]
    folder.mkdir()
    write_json(folder / "config.json", huggingface_config(config, "BF16", {}, "7b.json"))
    layouts = family_for(config, "7b.json").layouts
    shapes = {tensor.name: tensor.shape for group in groups(config, layouts) for tensor in group.theirs}
    for number, start in enumerate(range(0, len(shapes), 12)):
        names = list(shapes)[start : start + 12]
        tensors = {name: torch.zeros(shapes[name], dtype=torch.bfloat16) for name in names}
        save_file(tensors, folder / f"model-{number}.safetensors", {"format": "pt"})
    return folder


def growth_mb(direction: str, *paths: Path) -> float:
    command = [sys.executable, "-c", MEASURED, direction, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    return float(result.stdout)


def test_peak_memory_is_bounded_in_both_directions(folder: Path) -> None:
    paths = (folder, folder.parent / "7b.pt", folder.parent / "back")
    assert growth_mb("to_bmtrain", *paths) < ALLOWED_MB
    assert paths[1].stat().st_size > 2 * ALLOWED_MB * 2**20
    assert growth_mb("to_huggingface", *paths) < ALLOWED_MB
