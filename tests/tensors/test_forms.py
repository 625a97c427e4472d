"""The forms of weights in our names: the same tensors, known by what a file is called."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fm9g.errors import UserError
from fm9g.tensors.fingerprint import fingerprint
from fm9g.tensors.forms import beside
from fm9g.tensors.readers import read_weights
from tests.support.shards import in_shards


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        "matrix": torch.randn(30, 5),
        "bf16": torch.randn(3, 2).bfloat16(),
        "half": torch.randn(7).half(),
        "none": torch.empty(2, 0, 3),
        "no rows": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
    }


@pytest.fixture
def forms(tensors: dict[str, torch.Tensor], tmp_path: Path) -> list[Path]:
    """The same tensors in a .pt, a .safetensors and in shards."""
    torch.save(tensors, tmp_path / "x.pt")
    save_file(tensors, tmp_path / "x.safetensors")
    return [tmp_path / "x.pt", tmp_path / "x.safetensors", in_shards(tmp_path / "x.pt", tmp_path)]


def test_all_forms_hold_the_same_tensors_read_and_mapped(forms: list[Path], tensors: dict[str, torch.Tensor]) -> None:
    for path in forms:
        found = read_weights(path)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            pieces = torch.cat([torch.empty(0, dtype=tensor.dtype), *found[name].pieces()])
            mapped = found[name].mapped
            assert mapped is not None
            assert torch.equal(pieces, tensor.flatten())
            assert torch.equal(mapped(), tensor) and mapped().dtype == tensor.dtype


def test_all_forms_have_one_fingerprint_and_other_weights_another(forms: list[Path], tmp_path: Path) -> None:
    assert len({fingerprint(path) for path in forms}) == 1
    changed = torch.load(forms[0], weights_only=True)
    changed["half"][3] += 1
    torch.save(changed, tmp_path / "y.pt")
    assert (
        fingerprint(in_shards(tmp_path / "y.pt", tmp_path)) == fingerprint(tmp_path / "y.pt") != fingerprint(forms[0])
    )


def test_tensors_that_lie_at_odd_places_are_mapped_too(tmp_path: Path) -> None:
    """As no known writer puts them, and as the format allows."""
    header: dict[str, object] = {"half": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}
    header["full"] = {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]}
    encoded = json.dumps(header).encode()
    data = torch.tensor([3.0]).half().numpy().tobytes() + torch.tensor([1.0, 2.0]).numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    mapped = read_weights(tmp_path / "x.safetensors")["full"].mapped
    assert mapped is not None
    assert mapped().tolist() == [1, 2]


def _own_memory() -> int:
    """Bytes of this process that lie in no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_what_is_mapped_takes_no_memory_of_the_process(tmp_path: Path) -> None:
    torch.save({name: torch.ones(4, 1 << 20) for name in "abcdef"}, tmp_path / "x.pt")
    index, before = in_shards(tmp_path / "x.pt", tmp_path), _own_memory()
    mapped = [tensor.mapped() for tensor in read_weights(index).values() if tensor.mapped]
    assert [float(tensor.max()) for tensor in mapped] == [1] * 6  # all of it is looked at, and held
    assert _own_memory() - before < 16 << 20  # of 100 MB


def test_files_that_lie_beside_weights_are_found_from_each_form(tmp_path: Path) -> None:
    for name in ("w-3.pt", "w-3.safetensors", "w-3.safetensors.index.json", "w-3-00002-of-00004.safetensors", "w-3"):
        assert beside(tmp_path / name, ".lora.json") == tmp_path / "w-3.lora.json"


def test_one_shard_of_several_is_refused_with_what_to_give(forms: list[Path]) -> None:
    shard = forms[2].with_name("x-00002-of-00003.safetensors")
    with pytest.raises(UserError, match=r"is one shard of several: give x\.safetensors\.index\.json, which names all"):
        read_weights(shard)
    assert read_weights(in_shards(forms[0], shard.parent, 1).with_name("x-00001-of-00001.safetensors"))


def _rename(index: Path, name: str) -> None:
    text = index.read_text()
    index.write_text(text.replace("x-00002-of-00003.safetensors", name))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda index: _rename(index, "gone.safetensors"),
            "names gone.safetensors, which cannot be read: .*no such file",
        ),
        (
            lambda index: _rename(index, "../x.safetensors"),
            r"'\.\./x.safetensors' is not the name of a file in the same",
        ),
        (lambda index: _rename(index, "x.safetensors"), "is both in .* and in .*: the folder holds two checkpoints"),
        (lambda index: index.write_text("{}"), "no weight_map object in it"),
        (lambda index: index.unlink(), "no such file"),
        (lambda index: _cut(index.with_name("x-00002-of-00003.safetensors")), "x-00002-of-00003.* cut short"),
        (lambda index: _other(index.with_name("x-00002-of-00003.safetensors")), "does not describe its files: bf16"),
    ],
)
def test_shards_that_are_not_what_the_index_says_are_one_line(forms: list[Path], damage, says: str) -> None:
    damage(forms[2])
    with pytest.raises(UserError, match=says) as error:
        read_weights(forms[2])
    assert "\n" not in str(error.value)
    assert str(forms[2].parent) in str(error.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _other(path: Path) -> None:
    save_file({"other": torch.ones(2)}, path)
