"""What must not differ: between the ranks of a run, and between a run and the checkpoint that it goes on from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fm9g
from fm9g import runtime
from fm9g.checkpoint.settings import StartSettings
from fm9g.data.stream.corpus import Corpus
from fm9g.errors import UserError, shown
from fm9g.model.config import DEFAULTS, ModelConfig
from fm9g.settings import changed, fields, value_text
from fm9g.tensors.fingerprint import fingerprint
from fm9g.training.inputs import Inputs
from fm9g.training.settings import Settings

_PATHS = (  # each node may have what they name at a place of its own: that is compared instead
    *("config", "lora_config", "tokenizer_path", "dataset_config", "eval_dataset", "sample_prompts"),
    *("pretrained_model", "pretrained_lora", "output_dir"),
)
_OF_A_NODE = ("local", "dataloader_num_workers", "dataloader_num_threads", "dataloader_prefetch_factor")
_PACKAGES = ("torch", "bmtrain", "opendelta")
_HARMLESS = (
    "dropout_p",
    "init_std",
    "max_length",
    "router_loss",
)  # of a model config: the same weights compute the same
_ABSENT = "absent"


def check_ranks(inputs: Inputs) -> None:
    """A UserError on all ranks, naming one that differs and in what, unless all run the same; all must call it."""
    mine = json.dumps(what_decides(inputs), sort_keys=True)
    digests = runtime.gather_bytes(hashlib.sha256(mine.encode()).digest())
    if len(set(digests)) == 1:
        return
    first, *others = (json.loads(said) for said in runtime.gather_bytes(mine.encode()))
    for rank, other in enumerate(others, 1):
        names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if names:
            told = [f"{name} is {_value(other, name)} (rank 0: {_value(first, name)})" for name in names[:4]]
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise UserError(f"rank {rank} is not started as rank 0 is: {'; '.join(told)}{more}: start all ranks alike")


def _value(of: Mapping[str, Any], name: str) -> str:
    return shown(of[name]) if name in of else _ABSENT


def what_decides(inputs: Inputs) -> dict[str, Any]:
    """{what: value} of all that decides what a rank does, in JSON's types; long values as digests."""
    settings = inputs.settings
    found: dict[str, Any] = {
        name: getattr(settings, name) for name in fields(Settings) if name not in (*_PATHS, *_OF_A_NODE)
    }
    found |= {f"{name} of the model config": value for name, value in inputs.model_config.to_dict().items()}
    found["the tokenizer"] = inputs.tokenizer.fingerprint[:16]
    for kind, corpora in (("dataset", inputs.corpora), ("held-out dataset", inputs.held_out)):
        found |= {f"{kind} {corpus.entry.task_name!r}": _described(corpus) for corpus in corpora}
    found["the prompts of sample_prompts"] = _digest(json.dumps(inputs.sample_prompts))
    for name in ("pretrained_model", "pretrained_lora"):
        path = getattr(settings, name)
        found[f"the weights of {name}"] = fingerprint(Path(path))[:16] if path and Path(path).is_file() else path
    found["the code of fm9g"] = _digest_of_code()
    return found | {f"the version of {name}": _version(name) for name in _PACKAGES}


def _described(corpus: Corpus) -> str:
    entry = corpus.entry
    rules = {"share": entry.share, "epochs": entry.epochs, "data": corpus.dataset.fingerprint, **corpus.reading_rules}
    return _digest(json.dumps(rules, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest_of_code() -> str:
    root, found = Path(fm9g.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT


def check_resumed(saved: Mapping[str, Any], settings: Settings, config: ModelConfig) -> list[str]:
    """What a run has otherwise than the checkpoint's, given its state.json; a UserError where it is another run."""
    now = config.to_dict()
    # a checkpoint of before a field was there is of a model that has its default
    before = DEFAULTS | saved["model"]
    harmless = _HARMLESS if config.rope_scaling_type else (*_HARMLESS, "orig_max_length")
    wrong = [
        f"{name} of the model config is {value}, it was {before[name]}"
        for name, value in now.items()
        if name in before and before[name] != value and name not in harmless
    ]
    wrong += [
        f"{name} is {value_text(getattr(settings, name))}, it was {value_text(saved['settings'][name])}"
        for name, item in fields(Settings).items()
        if item.metadata.get("fixed") and saved["settings"].get(name, item.default) != getattr(settings, name)
    ]
    if wrong:
        raise UserError(
            f"this is not the run that the checkpoint is of: {'; '.join(wrong)}: set it as it was, or begin a run with "
            "these weights alone (only_load_model=1, another model_unique)"
        )
    said = [
        f"{name} of the model config is {now[name]}, it was {before[name]}"
        for name in _HARMLESS
        if name in before and before[name] != now[name]
    ]
    return changed(saved["settings"], settings, but=fields(StartSettings)) + said
