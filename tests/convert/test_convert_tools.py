"""tools/hgface_2_bmtrain.py and tools/bmtrain_2_hgface.py as users run them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fm9g.errors import UserError
from fm9g.tensors.lazy import DTYPE_ARGUMENTS, parse_dtype
from fm9g.tensors.writers import parse_size
from tests.convert.helpers import assert_same_bits, read_tensors

TOOLS = Path(__file__).parents[2] / "tools"


def run(tool: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_both_tools_from_any_folder_with_either_spelling_of_flags(tmp_path: Path, llama: Path) -> None:
    there = run(
        "hgface_2_bmtrain.py", "--huggingface_dir", llama, "--output=models/7b.pt", "--dtype=fp32", cwd=tmp_path
    )
    assert (there.returncode, there.stderr) == (0, "")
    assert there.stdout.startswith("models/7b.pt: ")
    flags = ("--huggingface-ref-dir", llama, "--bmtrain_ckpt_path", "models/7b.pt", "--huggingface_save-dir", "back")
    back = run("bmtrain_2_hgface.py", *flags, "--max_shard_size=30KB", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    assert_same_bits(read_tensors(tmp_path / "back"), load_file(llama / "model.safetensors"))


def test_a_mistake_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    result = run("hgface_2_bmtrain.py", "--huggingface-dir", "absent", "--output", "7b.pt", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "error: absent/config.json: no such file\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--huggingface-ref-dir", "r", "--lora-config-path", "l"], r"--lora-ckpt-path are: give that, too"),
        (["--huggingface-ref-dir", "r", "--adapter-only"], r"--adapter-only needs --lora-ckpt-path, and"),
        (["--huggingface-ref-dir", "r", "--lora-ckpt-path", "l.pt"], r"l.pt: no such file"),
        (
            ["--huggingface-ref-dir", "r", "--model-config", "m.json", "--tokenizer", "t"],
            "give either --huggingface-ref-dir, or both",
        ),
        (["--model-config", "m.json"], "give either --huggingface-ref-dir, or both"),
    ],
)
def test_flags_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str) -> None:
    required = ["--bmtrain-ckpt-path", "x.pt", "--huggingface-save-dir", "y"]
    monkeypatch.setattr(sys, "argv", ["bmtrain_2_hgface.py", *required, *flags])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=words):
        runpy.run_path(str(TOOLS / "bmtrain_2_hgface.py"))["main"]()


def test_sizes_and_dtypes_as_users_write_them() -> None:
    assert [parse_size(text) for text in ("5GB", "1.5 mb", "2GiB", "1000")] == [5 * 10**9, 1500000, 2 << 30, 1000]
    assert [parse_dtype(text) for text in DTYPE_ARGUMENTS] == ["BF16", "BF16", "F16", "F16", "F32", "F32"]
    for text in ("", "0", "0.5", "-5GB", "five", "5TB", "9" * 400 + "GB", "9" * 400, "9" * 305 + "GB"):
        with pytest.raises(UserError, match="5GB"):
            parse_size(text)
    with pytest.raises(UserError, match="bfloat16"):
        parse_dtype("int8")
