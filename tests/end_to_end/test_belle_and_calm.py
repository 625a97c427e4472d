"""The loop of BELLE's and CALM's guides, as examples/belle_and_calm/run.sh has it, from first to last."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from tests.support.ranks import REPOSITORY, environment

EXAMPLE = "examples/belle_and_calm"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script leaves: run beside a copy of the example, so that the repository stays as it is."""
    root = tmp_path_factory.mktemp("loop")
    shutil.copytree(REPOSITORY / EXAMPLE, root / EXAMPLE, ignore=shutil.ignore_patterns("out"))
    (root / "tools").symlink_to(REPOSITORY / "tools")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", f"{EXAMPLE}/run.sh"],
        cwd=root,
        env=environment({"PATH": path}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / EXAMPLE / "out"


@pytest.mark.parametrize(("name", "right"), [("full", 50), ("lora", 5)])
def test_every_held_out_record_is_answered(out: Path, name: str, right: int) -> None:
    lines = [json.loads(line) for line in (out / f"predictions_{name}.jsonl").read_text("utf-8").splitlines()]
    dev = [json.loads(line)["conversations"] for line in (out / "dev.jsonl").read_text("utf-8").splitlines()]
    assert [(line["input"], line["target"]) for line in lines] == [tuple(turn["value"] for turn in t) for t in dev]
    assert sum(line["predict"] == line["target"] for line in lines) >= right


def test_both_ways_of_merging_are_one(out: Path) -> None:
    ids = torch.arange(4, 40).unsqueeze(0)
    logits = []
    for name in ("merged", "merged_peft", "llama"):
        model = transformers.AutoModelForCausalLM.from_pretrained(out / name)
        with torch.no_grad():
            logits.append(model(ids).logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits[0], logits[2], atol=0.1)
