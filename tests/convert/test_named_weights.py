"""What is converted is what its run has written, or nothing is."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest

from fm9g.convert.adapter_files import peft_to_bmtrain
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from tests.convert.helpers import edit_json, read_tensors
from tests.convert.test_adapters import theirs
from tests.support.ranks import Finished
from tests.support.shards import in_shards
from tests.support.tools import run_tool_here

STEM = "fm9g_live_checkpoint-{step}"


def manifest(folder: Path) -> None:
    """Have it say that all files are what was written."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    listed = {name: {"size": len(data), "crc32": f"{zlib.crc32(data):08x}"} for name, data in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "files": listed}))


def checkpoint(folder: Path, step: int, weights: Path, form: str = "pt", **state: object) -> Path:
    """The folder of a checkpoint with these weights; returns its file of weights, or the index of their shards."""
    folder.mkdir(parents=True)
    stem = STEM.format(step=step)
    target = Path(shutil.copy(weights, folder / f"{stem}.pt"))
    if form == "shards":
        index = in_shards(target, folder)
        target.unlink()
        target = index
    if (config := weights.with_suffix(".json")).exists():
        shutil.copy(config, folder / f"{stem}.json")
    said = {"version": 1, "kind": "training", "progress": {"step": step}, **state}
    (folder / "state.json").write_text(json.dumps(said))
    manifest(folder)
    (folder.parent / "latest").write_text(f"{step}\n")
    return target


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def weights(llama: Path, tmp_path: Path) -> Path:
    huggingface_to_bmtrain(llama, tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.fixture
def adapters(llama: Path, tmp_path: Path) -> Path:
    """The file of adapters in a checkpoint, whose state.json says what they are."""
    theirs(llama).save_pretrained(tmp_path / "peft")
    peft_to_bmtrain(tmp_path / "peft", llama, tmp_path / "a.pt")
    note = json.loads((tmp_path / "a.lora.json").read_text())
    kinds = {"r": "lora_r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}
    told = {name: note[key] for name, key in kinds.items()}
    return checkpoint(tmp_path / "adapted/4", 4, tmp_path / "a.pt", adapters=told)


def convert(llama: Path, folder: Path, *words: object) -> Finished:
    shutil.rmtree(folder / "out", ignore_errors=True)
    flags = ["--huggingface-ref-dir", llama, "--huggingface-save-dir", folder / "out", *words]
    return run_tool_here("bmtrain_2_hgface.py", [str(flag) for flag in flags], folder)


@pytest.mark.parametrize("form", ["pt", "shards"])
def test_a_checkpoint_is_compared_first(form: str, llama: Path, weights: Path, tmp_path: Path) -> None:
    for step in (2, 4):
        named = checkpoint(tmp_path / f"run/{step}", step, weights, form)
    folder = named.parent
    for whole in (named, folder, folder.parent):
        assert convert(llama, tmp_path, "--bmtrain-ckpt-path", whole).returncode == 0
        assert read_tensors(tmp_path / "out").keys() == read_tensors(llama).keys()
    damaged = named if form == "pt" else named.with_name(f"{STEM.format(step=4)}-00002-of-00003.safetensors")
    for path in (damaged, folder / f"{STEM.format(step=4)}.json", folder / "manifest.json"):
        kept = path.read_bytes()
        turn_a_bit(path)
        for wrong in (named, folder):
            done = convert(llama, tmp_path, "--bmtrain-ckpt-path", wrong)
            assert done.returncode == 1
            assert str(path) in done.output
            if path == damaged:
                assert f"error: {path} is damaged: its checksum is not that of what was written" in done.output
            assert "take another checkpoint (steps that are whole, by the sizes of their files: 2)" in done.output
            assert not (tmp_path / "out").exists()
        path.write_bytes(kept)
    os.truncate(damaged, 100)
    done = convert(llama, tmp_path, "--bmtrain-ckpt-path", named)
    assert f"{damaged}: has 100 bytes" in done.output


def test_of_a_run_the_newest_whole_one_is_converted(
    llama: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (2, 4):
        named = checkpoint(tmp_path / f"run/{step}", step, weights)
    turn_a_bit(named)
    done = convert(llama, tmp_path, "--bmtrain-ckpt-path", tmp_path / "run")
    assert done.returncode == 0
    turn_a_bit(tmp_path / f"run/2/{STEM.format(step=2)}.pt")
    done = convert(llama, tmp_path, "--bmtrain-ckpt-path", tmp_path / "run")
    assert f"warning: checkpoint 4 is not whole: {named} is damaged" in done.output
    assert f"error: {tmp_path / 'run'}: no checkpoint up to 4 is whole" in done.output


def test_what_no_manifest_lists_is_taken_as_it_is(llama: Path, weights: Path, tmp_path: Path) -> None:
    named = checkpoint(tmp_path / "run/4", 4, weights)
    turn_a_bit(named)
    beside, elsewhere = named.with_name("copy.pt"), tmp_path / "copy.pt"
    for other in (beside, elsewhere):
        shutil.copy(named, other)
        assert convert(llama, tmp_path, "--bmtrain-ckpt-path", other).returncode == 0
    (named.parent / "manifest.json").unlink()
    for other in (named, named.parent):
        assert convert(llama, tmp_path, "--bmtrain-ckpt-path", other).returncode == 0


def test_adapters_are_compared_with_what_says_what_they_are(
    llama: Path, weights: Path, adapters: Path, tmp_path: Path
) -> None:
    merging = ["--bmtrain-ckpt-path", weights, "--lora-ckpt-path"]
    for words in (merging, ["--adapter-only", "--lora-ckpt-path"]):
        for whole in (adapters, adapters.parent, adapters.parent.parent):
            assert convert(llama, tmp_path, *words, whole).returncode == 0
    state = adapters.with_name("state.json")
    for damage in (lambda: edit_json(state, adapters={"r": 4}), lambda: turn_a_bit(adapters)):
        damage()
        for words in (merging, ["--adapter-only", "--lora-ckpt-path"]):
            for wrong in (adapters, adapters.parent):
                done = convert(llama, tmp_path, *words, wrong)
                assert done.returncode == 1
                assert "take another checkpoint" in done.output
                assert not (tmp_path / "out").exists()
        shutil.rmtree(adapters.parent)
        checkpoint(adapters.parent, 4, tmp_path / "a.pt")


def test_a_folder_without_weights_is_told(llama: Path, tmp_path: Path) -> None:
    for folder, says in ((llama, "tools/hgface_2_bmtrain.py makes weights of it"), (tmp_path, "neither a checkpoint")):
        done = convert(llama, tmp_path, "--bmtrain-ckpt-path", folder)
        assert done.returncode == 1
        assert says in done.output
    (tmp_path / "state.json").write_text("{}")
    assert "state.json: says no step" in convert(llama, tmp_path, "--bmtrain-ckpt-path", tmp_path).output
