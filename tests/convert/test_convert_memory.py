"""A conversion's memory does not grow with the model: peak resident size, mapped pages included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fm9g.convert.families import llama
from fm9g.convert.layouts import groups
from fm9g.model.config import ModelConfig

CONFIG = ModelConfig(vocab_size=16000, dim_model=1024, num_heads=8, num_layers=8, dim_ff=2816, dtype="bf16")
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory") / "source"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": CONFIG.vocab_size,
        "hidden_size": CONFIG.dim_model,
        "num_attention_heads": CONFIG.num_heads,
        "num_hidden_layers": CONFIG.num_layers,
        "intermediate_size": CONFIG.dim_ff,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {tensor.name: tensor.shape for group in groups(CONFIG, llama.LAYOUTS) for tensor in group.theirs}
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
