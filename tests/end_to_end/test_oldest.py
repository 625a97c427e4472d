"""The oldest dependencies that pyproject.toml allows do what the pinned ones do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import REPOSITORY, environment

# What transformers, tokenizers and the readers of data are used for. Exported tokenizers are not in it: old versions
# of tokenizers choose otherwise among unigram's equally good cuts.
TESTS = (
    *("tests/convert/test_families.py", "tests/convert/test_hf_config.py", "tests/convert/test_layouts.py"),
    *("tests/convert/test_rope_parity.py", "tests/convert/test_round_trip.py", "tests/convert/test_convert_tools.py"),
    *("tests/convert/test_family_folders.py", "tests/convert/test_longrope.py"),
    *("tests/model", "tests/tensors", "tests/data", "tests/settings", "tests/training", "tests/checkpoint"),
    *("tests/lora", "tests/generation", "tests/serve"),
    # transformers' own beam search ended otherwise then
    "--deselect=tests/generation/test_beams.py::test_it_finds_what_transformers_finds",
)
PROJECT = re.findall(r'"([\w-]+)>=([\d.]+)"', (REPOSITORY / "pyproject.toml").read_text())
PINNED = re.findall(r"^([\w-]+)==([\d.]+)", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
OPENDELTA = re.findall(r"opendelta==[\d.]+", (REPOSITORY / "Makefile").read_text())
# Older torch comes with CUDA alone, some gigabytes of it; typing_extensions is torch's choice
AS_PINNED = ("torch", "typing_extensions", "tensorboard", "setuptools", "pytest", "hypothesis", "psutil", "openai")


def oldest() -> list[str]:
    """Requirements: of what pyproject.toml names its least version, of the rest what is pinned."""
    least = {name: version for name, version in PROJECT if name not in (*AS_PINNED, "flash-attn")}
    exact = {name: version for name, version in PINNED if name in AS_PINNED and name != "typing_extensions"}
    return [
        *(f"{name}=={version}" + (".*" if version.count(".") < 2 else "") for name, version in least.items()),
        *(f"{name}=={version}" for name, version in exact.items()),
        "typing_extensions",
    ]


def test_every_dependency_is_imported_by_the_package() -> None:
    """But for typing_extensions, which BMTrain imports and does not ask for."""
    modules = {"google-crc32c": "google_crc32c", "pysimdjson": "simdjson", "flash-attn": "flash_attn"}
    modules["rouge-chinese"] = "rouge_chinese"
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "fm9g").rglob("*.py"))
    names = {name for name, _ in PROJECT} - {"setuptools", "typing_extensions"}
    assert {"torch", "h5py", "zstandard"} < names
    for name in names:
        module = modules.get(name, name)
        assert re.search(rf"^\s*(import|from) {module}\b|import_module\(\"{module}", sources, re.MULTILINE), name


@pytest.mark.soak
def test_the_oldest_dependencies(tmp_path: Path) -> None:
    python = tmp_path / "environment/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "environment")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *oldest()], check=True, timeout=1200)
    subprocess.run([str(python), str(REPOSITORY / "tools/install_bmtrain.py")], check=True, timeout=300)
    subprocess.run([*install, "--no-deps", *OPENDELTA], check=True, timeout=300)
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-m", "not soak", *TESTS],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
