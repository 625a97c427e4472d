"""Adapters of ours as a PEFT folder, and the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from fm9g.convert.adapters import SavedAdapters
from fm9g.convert.hf_config import described, family_for
from fm9g.convert.outputs import check_output_file, check_output_folder, new_file, new_folder
from fm9g.convert.peft import check_sayable, in_our_names, read_peft, write_peft
from fm9g.errors import UserError
from fm9g.files import write_json
from fm9g.lora.layers import LORA_A, adapter_parameters, matching
from fm9g.lora.told import note_path
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import EMBEDDING, HEAD, parameters
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.finite import noting, warn_of
from fm9g.tensors.lazy import LazyTensor
from fm9g.tensors.writers import write_pt


def adapters_to_peft(
    saved: SavedAdapters, reference: Path | None, model_config: Path | None, target: Path, overwrite: bool = False
) -> None:
    """Write adapters to the PEFT folder `target`, for the Hugging Face model in the folder `reference`, or for one that
    is written from `model_config`."""
    if reference is not None:
        *_, family, config = described(reference)
    else:
        assert model_config is not None
        config = ModelConfig.from_json(model_config)
        family = family_for(config, str(model_config))
    if reference is not None and target.resolve() == reference.resolve():
        raise UserError(f"{target}: is the model's own folder; choose another one to save to")
    check_sayable(saved, config)
    config = _with_rows(config, saved)
    _check_shapes(saved.tensors(), config, saved.path)
    check_output_folder(target, overwrite)
    with new_folder(target, overwrite) as folder:
        write_peft(saved, config, family.layouts, str(reference or ""), folder)


def peft_to_bmtrain(peft_dir: Path, huggingface_dir: Path, output: Path, overwrite: bool = False) -> int:
    """Write the adapters of a PEFT folder for the model in `huggingface_dir` to `output`, and what they are to the
    .lora.json beside it, a train config; returns the number of layers with adapters."""
    if output.suffix != ".pt":
        raise UserError(f"{output}: the output must be a .pt file")
    for path in (output, note_path(output)):
        check_output_file(path, overwrite)
    *_, family, config = described(huggingface_dir)
    peft = read_peft(peft_dir)
    ours = in_our_names(peft, config, family.layouts)
    tensors, config = dict(sorted(ours.tensors().items())), _with_rows(config, ours)
    layers = _layers(list(tensors), config, peft_dir)
    _check_shapes(tensors, config, peft_dir)
    output.parent.mkdir(parents=True, exist_ok=True)
    note = {
        "lora": True,
        "lora_layer": layers,
        "lora_r": peft.kind.r,
        "lora_alpha": peft.kind.alpha,
        "lora_dropout": peft.dropout,
        "use_rslora": peft.kind.rslora,
        "use_dora": peft.kind.dora,
        "modules_to_save": [name.rpartition(".")[0] for name in tensors if ".lora." not in name] or None,
    }
    found = dict[str, str]()
    with (
        ProgressBar(str(output), sum(tensor.nbytes for tensor in tensors.values())) as progress,
        new_file(output, overwrite, lambda: write_json(note_path(output), note)) as temporary,
    ):
        write_pt(temporary, noting(tensors, found), progress)
    warn_of(found, output)
    return len(peft.adapters)


def _with_rows(config: ModelConfig, saved: SavedAdapters) -> ModelConfig:
    """The config with as many rows as embedding and head have that are saved whole, where they are more than its own:
    of a model that was given more tokens. Without both, rows of the other one would be lost."""
    rows = {name: tensor.shape[0] for name, tensor in saved.whole.items() if name in (EMBEDDING, HEAD)}
    most = max(rows.values(), default=0)
    if most <= config.vocab_size:
        return config
    if len(rows) < 2:
        raise UserError(
            f"{saved.path}: {next(iter(rows))} has {most} rows, the model {config.vocab_size}, and the rows of "
            f"{HEAD if EMBEDDING in rows else EMBEDDING} are not with it: save both whole (modules_to_save), or take "
            "the folder of the model with these rows (bmtrain_2_hgface --tokenizer)"
        )
    return dataclasses.replace(config, vocab_size=most)


def _check_shapes(tensors: Mapping[str, LazyTensor], config: ModelConfig, where: Path) -> None:
    """Refuse adapters whose tensors are not those of layers of this model."""
    rank = next(tensor.shape[0] for name, tensor in tensors.items() if name.endswith(LORA_A))
    table = [*adapter_parameters(config, ["all"], rank, dora=True), *parameters(config)]
    shapes = {parameter.name: parameter.shape for parameter in table}
    for name, tensor in tensors.items():
        if shapes.get(name) != tensor.shape:
            wanted = f"is {list(shapes[name])} for this model" if name in shapes else "is nothing of this model"
            raise UserError(f"{where}: {name}, {list(tensor.shape)}, {wanted}")


def _layers(names: list[str], config: ModelConfig, peft_dir: Path) -> list[str]:
    """The layers of a block that have adapters; a UserError where blocks differ, as those of a run here never do."""
    adapted = {name.partition(".lora.")[0] for name in names if ".lora." in name}
    layers = [layer for layer in matching(config, ["all"]) if any(name.endswith(f".{layer}") for name in adapted)]
    if len(adapted) != len(layers) * config.num_layers:
        raise UserError(f"{peft_dir}: not every block has the same adapters, as blocks have here")
    return layers
