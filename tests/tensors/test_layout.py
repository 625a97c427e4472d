"""Files of tensors are laid out as torch.save's and safetensors' own."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm9g.progress_bar import ProgressBar
from fm9g.tensors.layout import lay_out_pt, lay_out_safetensors
from fm9g.tensors.lazy import DTYPES, Described, LazyTensor
from fm9g.tensors.writers import write_pt, write_safetensors_file

KEYS = {dtype.torch: key for key, dtype in DTYPES.items()}
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
described = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6), st.builds(Described, st.sampled_from(sorted(DTYPES)), shapes), max_size=5
)


@given(described, st.sampled_from([lay_out_pt, lay_out_safetensors]))
def test_what_is_laid_out_fills_the_file_and_nothing_lies_on_anything(tensors, lay_out):
    layout = lay_out(tensors)
    spans = [(layout.starts[name], tensor.nbytes) for name, tensor in tensors.items()]
    spans += [(offset, len(data)) for offset, data in layout.frame(dict.fromkeys(tensors, 0))]
    end = 0
    for start, nbytes in sorted(spans):
        assert start == end
        end = start + nbytes
    assert list(layout.starts.values()) == sorted(layout.starts.values())


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        "matrix": torch.randn(3, 5),
        "scalar": torch.tensor(1.5),
        "none": torch.empty(2, 0, 3, dtype=torch.bfloat16),
        "half": torch.randn(7).half(),
    }


def lazy(tensors: dict[str, torch.Tensor]) -> dict[str, LazyTensor]:
    def one(tensor: torch.Tensor) -> LazyTensor:
        return LazyTensor(KEYS[tensor.dtype], tuple(tensor.shape), lambda: iter([tensor.flatten()]))

    return {name: one(tensor) for name, tensor in tensors.items()}


def test_torch_describes_the_same_tensors_in_the_same_way(tensors, tmp_path: Path):
    """A scalar and an empty tensor too, with their strides."""
    write_pt(tmp_path / "ours.pt", lazy(tensors), ProgressBar("x"))
    theirs = io.BytesIO()
    torch.save(tensors, theirs)
    theirs.seek(0)
    loaded, other = torch.load(tmp_path / "ours.pt", weights_only=True), torch.load(theirs, weights_only=True)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert (loaded[name].stride(), loaded[name].dtype) == (other[name].stride(), other[name].dtype)
    with zipfile.ZipFile(tmp_path / "ours.pt") as zipped:
        assert zipped.testzip() is None


def test_safetensors_reads_it(tensors, tmp_path: Path):
    write_safetensors_file(tmp_path / "ours.safetensors", lazy(tensors), ProgressBar("x"))
    loaded = safetensors.torch.load_file(tmp_path / "ours.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_tensor_must_have_the_size_that_its_shape_says(tmp_path: Path):
    short = LazyTensor("F32", (4,), lambda: iter([torch.zeros(3)]))
    with pytest.raises(AssertionError, match="12 bytes, 16 announced"):
        write_pt(tmp_path / "file.pt", {"short": short}, ProgressBar("x"))
