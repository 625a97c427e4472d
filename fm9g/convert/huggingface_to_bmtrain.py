"""A Hugging Face folder -> one .pt file in our names, and the model config beside it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from fm9g.convert.hf_config import described
from fm9g.convert.layouts import converted
from fm9g.convert.matching import match
from fm9g.convert.outputs import check_output_file, new_file
from fm9g.convert.resized_rows import NewRows, check_is_of, new_rows, resized
from fm9g.convert.tokenizer.of_weights import note_origin, note_path
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.finite import noting, warn_of
from fm9g.tensors.lazy import DTYPES, as_dtype, main_dtype
from fm9g.tensors.readers import read_huggingface_folder
from fm9g.tensors.writers import write_pt


def huggingface_to_bmtrain(
    huggingface_dir: Path,
    output: Path,
    dtype: str | None = None,
    overwrite: bool = False,
    tokenizers: tuple[Path, Path] | None = None,
) -> ModelConfig:
    """Convert the folder to `output` (a .pt file) and its config to the .json of the same stem; return the config.

    `dtype` is a key of DTYPES; None keeps each tensor's own. Memory stays at a few pieces of a tensor, whatever the
    model. NaN and infinities are kept, and a warning names them. The .json is in place before the .pt, so a .pt is
    never without it, and so is a note on the folder's tokenizer, by which training knows when it is given another one.

    `tokenizers`: the one that the model has, and one of more tokens, for which the .pt gets rows.
    """
    if output.suffix != ".pt":
        raise UserError(f"{output}: the output must be a .pt file")
    config_path = output.with_suffix(".json")
    for path in (output, config_path, note_path(output)):
        check_output_file(path, overwrite)
    path, _, family, config = described(huggingface_dir)
    if config.reaches_further:
        print(
            f"note: {path}: read as a model of {config.max_length:,} tokens, for which longrope has factors of their "
            f"own; with a larger max_length in {config_path} all texts get those of longer ones",
            file=sys.stderr,
        )
    checkpoint = read_huggingface_folder(huggingface_dir)
    groups, found_tensors = match(config, family.layouts, checkpoint, "huggingface", str(huggingface_dir))
    sources = {name: as_dtype(name, tensor, dtype) for name, tensor in found_tensors.items()}
    if tokenizers is not None:
        rows = _rows(huggingface_dir, *tokenizers, config.vocab_size)
        tables = [shaped.name for group in groups for shaped in group.theirs if shaped.axes[0] == "vocab"]
        sources |= {name: resized(name, found_tensors[name], rows, dtype) for name in tables}
        config = dataclasses.replace(config, vocab_size=rows.size)
    tensors = dict(converted(groups, sources, "huggingface"))
    config = dataclasses.replace(config, dtype=DTYPES[main_dtype(list(tensors.values()))].config)
    output.parent.mkdir(parents=True, exist_ok=True)
    total, found = sum(tensor.nbytes for tensor in tensors.values()), dict[str, str]()

    def describe() -> None:
        config.to_json(config_path)
        note_origin(output, tokenizers[1] if tokenizers else huggingface_dir, family.architecture)

    with ProgressBar(str(output), total) as progress, new_file(output, overwrite, describe) as temporary:
        write_pt(temporary, noting(tensors, found), progress)
    warn_of(found, output)
    return config


def _rows(huggingface_dir: Path, old: Path, new: Path, rows: int) -> NewRows:
    """The rows for the tokenizer `new` of the model in a folder, whose tokenizer `old` is."""
    had = load_tokenizer(old)
    check_is_of(had, huggingface_dir)
    return new_rows(had, load_tokenizer(new), rows)
