"""The loop of BELLE's and CALM's guides, as examples/belle_and_calm/run.sh has it, from first to last."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from tests.convert.helpers import IN_FLOAT32
from tests.support.ranks import REPOSITORY, environment

EXAMPLE = "examples/belle_and_calm"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script leaves: run in a copy of the examples, so that the repository stays as it is."""
    root = tmp_path_factory.mktemp("loop")
    shutil.copytree(REPOSITORY / "examples", root / "examples", ignore=shutil.ignore_patterns("out"))
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


def test_both_ways_of_merging_are_one_and_what_peft_computes(out: Path) -> None:
    """PEFT computes base and adapter side by side, and merges nothing."""
    ids = torch.arange(4, 40).unsqueeze(0)
    models = [loaded(out / name) for name in ("merged", "merged_peft", "llama")]
    models.append(peft.PeftModel.from_pretrained(loaded(out / "llama"), out / "peft").eval())
    with torch.no_grad():
        merged, merged_peft, base, expected = (model(ids).logits for model in models)
    torch.testing.assert_close(merged, merged_peft, rtol=1e-5, atol=1e-5)
    assert (merged - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.allclose(merged, base, atol=0.1)


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32)


def test_the_comparison_with_peft_of_another_example_can_fail(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """examples/finetune_real_model ends with it: exit status 1 and a line where the merged model is not PEFT's."""
    compare = runpy.run_path(str(REPOSITORY / "examples/finetune_real_model/in_peft.py"))["main"]
    base, adapter = str(out / "llama"), str(out / "peft")
    compare(base, adapter, str(out / "merged"))
    assert "weights differ from PEFT's, rounded alike\n" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match=r"^error: [\d,]+ of [\d,]+ weights of .* differ from PEFT's, more than 0\.1 %$"
    ):
        compare(base, adapter, base)
