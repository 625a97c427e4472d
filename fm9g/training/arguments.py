"""Every setting of a run: its default, its meaning, where its value comes from, and its checks.

Later over earlier: the defaults here; the args[...] table of run_bmtrain.sh; train_configs/<config>.json; the
command line. Docs and --help are made from the fields below, so they cannot differ from the code.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fm9g.errors import UserError, closest, shown
from fm9g.files import read_json, user_path

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND_LINE, TABLE, DEFAULT = "command line", "the args table of run_bmtrain.sh", "default"
SCHEDULERS = ("cosine", "warmupstabledrop", "warmupstableexp")


def _setting(default: Any, meaning: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"meaning": meaning, **metadata})


@dataclass(frozen=True)
class Settings:
    """The settings of one run, after merging."""

    # where a run starts
    pretrained_model: str = _setting(
        "", "a .pt of weights in our names to start from, at step 0; beside resume_ckpt latest, if nothing is to resume"
    )
    resume_ckpt: str = _setting("", 'a step of this run to resume, or "latest" (which starts at 0 if there is none)')
    only_load_model: bool | None = _setting(None, "with resume_ckpt: 1 loads the weights alone and starts at step 0")
    load_grad: bool | None = _setting(None, "load the optimizer state; implied by a full resume, 0 starts it anew")
    grad_ckpt_num: int = _setting(160, "number of optimizer files; found from the checkpoint, checked if given")
    load_dataloader_ckpt: bool | None = _setting(None, "resume the data position; implied by a full resume, 0 restarts")
    parallel_load_datastate: int = _setting(8, "threads that read the files of a checkpoint's data state")
    resume_no_optimze: int = _setting(0, "steps after a resume over which the learning rate is ramped from 0")
    strict_state_dict: bool = _setting(True, "0 allows missing and unexpected keys, and lists them")
    # what is trained
    config: str = _setting("7b", "model_configs/<config>.json and train_configs/<config>.json, or a path")
    tokenizer_path: str = _setting(
        "./tokenizer/tokenizer.model", "a sentencepiece file or a Hugging Face tokenizer folder"
    )
    dataset_config: str = _setting("data_test", "dataset_config/<name>.json, or a path")
    model_unique: str = _setting("7b", "the run's name, and that of its folders")
    # how it is run
    n_gpus: int = _setting(2, "processes on this node (CPU ranks where there is no GPU)")
    flash: str = _setting("cuda", "attention kernel: cuda (the best there is) or none (the plain reference)")
    max_length: int = _setting(4096, "tokens in a row; not given, at most as many as the model config's max_length")
    batch_size: int = _setting(1, "rows per rank and micro-step")
    grad_accum: int = _setting(1, "micro-steps per optimizer step")
    local: bool = _setting(False, "True: paths as they are; False: relative ones are also looked for beside the app")
    use_checkpoint: bool = _setting(False, "recompute activations in backward to save memory")
    tp_size: int = _setting(1, "tensor-parallel ranks")
    offload: bool | None = _setting(None, "optimizer state and step on the CPU; default: on the native backend only")
    ignore_cuda_oom: bool = _setting(True, "accepted and without effect, as it always was")
    # the data
    dataloader: str = _setting("indexed", "the loader; there is only this one")
    dataloader_num_workers: int = _setting(1, "loader processes per rank; 0 loads in the training process")
    dataloader_num_threads: int = _setting(
        1, "threads of a loader process that tokenize ahead, and as many that read ahead"
    )
    dataloader_prefetch: int = _setting(1, "records read ahead, per lane and dataset, on top of those of its next row")
    dataloader_prefetch_factor: int = _setting(1, "batches that each loader process makes ahead")
    stop_when_end: bool = _setting(False, "when a non-repeating mixture is exhausted: 1 stops early, 0 fails")
    max_damaged_share: float = _setting(
        0.001, "the share of a dataset's records that may be skipped as damaged; more of them fail the run"
    )
    only_run_dataloader: bool = _setting(False, "run the data pipeline alone and report on it")
    accept_changed_data: bool = _setting(False, "resume although a dataset's file is not what it was")
    # optimisation
    train_iters: int = _setting(10000, "iterations to run")
    lr: float = _setting(1e-2, "peak learning rate; must be given with pretrained_model")
    lr_scheduler: str = _setting("cosine", "cosine, warmupstabledrop or warmupstableexp", lower=True)
    warmup_iters: float = _setting(20, "iterations of linear warm-up; in (0, 1): a fraction of train_iters")
    drop_iters: float = _setting(0.1, "iterations of the final drop; in (0, 1): a fraction of train_iters")
    drop_begin: int = _setting(-1, "iteration at which the drop begins; -1: train_iters - drop_iters")
    drop_rate: float = _setting(0.5, "warmupstableexp: what the rate is multiplied by every drop_iters")
    weight_decay: float = _setting(0.1, "AdamW's decoupled weight decay, on every parameter")
    betas: tuple[float, float] = _setting((0.9, 0.95), "AdamW's decay rates of the moments")
    clip_grad: float = _setting(1.0, "largest gradient norm; 0 does not clip")
    eps: float | None = _setting(None, "layer-norm epsilon; overrides the model config when set")
    loss_scale: float | None = _setting(None, "initial loss scale; default: none, 65536 for fp16; 0 turns it off")
    loss_scale_factor: float = _setting(2.0, "what the loss scale is divided or multiplied by")
    loss_scale_steps: int = _setting(1024, "steps without overflow after which the loss scale grows")
    min_loss_scale: float = _setting(1.0, "the loss scale does not fall below this")
    seed: int = _setting(1234, "everything random derives from it")
    # what is written
    output_dir: str = _setting("", "where the run writes; default: the app's data/")
    save: bool = _setting(True, "write checkpoints")
    save_iters: int = _setting(500, "iterations between checkpoints")
    async_save: bool = _setting(False, "write checkpoints in the background")
    log_iters: int = _setting(1, "iterations between the lines printed; metrics.jsonl and TensorBoard get each one")
    inspect_iters: int = _setting(
        100,
        "iterations between parameter and gradient summaries (in TensorBoard) or only_run_dataloader reports; 0: none",
    )
    tensorboard_all_tasks: bool = _setting(False, "write every task's loss and tokens to TensorBoard")
    exp_group: str = _setting("", "prefix of the TensorBoard folder")
    dry_run: bool = _setting(False, "check everything, report sizes and memory, and exit")
    # later work
    lora_layer: list[str] | None = _setting(None, "LoRA: layers that get adapters", later="LoRA")
    lora_r: int | None = _setting(None, "LoRA: rank", later="LoRA")
    lora_alpha: float | None = _setting(None, "LoRA: scale alpha / r", later="LoRA")
    lora_dropout: float | None = _setting(None, "LoRA: dropout", later="LoRA")

    # {setting: where its value comes from} of those that do not have their default
    sources: dict[str, str] = field(default_factory=dict, metadata={"internal": True})

    def source(self, name: str) -> str:
        """Where a setting's value comes from, in words."""
        return self.sources.get(name, DEFAULT)

    def iterations(self, name: str) -> int:
        """warmup_iters or drop_iters in iterations, where given as a fraction of train_iters."""
        value = getattr(self, name)
        return round(value * self.train_iters) if 0 < value < 1 else int(value)


FIELDS = {item.name: item for item in dataclasses.fields(Settings) if not item.metadata.get("internal")}


def parse_value(name: str, value: Any, where: str) -> Any:
    """Turn what a user wrote ("1e-2", "True", "0", 5) into the setting's type; a UserError says why not."""
    item = FIELDS[name]
    kind = str(item.type).split(" | ")[0]
    try:
        parsed = _PARSERS[kind](value)
    except _OutOfRange as error:
        raise UserError(f"{where}: {name} must be {error}, not {shown(value)}") from None
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError):  # of float, literal_eval
        raise UserError(f"{where}: {name} must be {_KIND_NAMES[kind]}, not {shown(value)}") from None
    return parsed.lower() if item.metadata.get("lower") else parsed


_LARGEST_INT = 2**32 - 1  # the largest seed
_LARGEST_FLOAT = 3.4e38  # of float32, in which they are used; infinity is refused by those that cannot be infinite


class _OutOfRange(ValueError):
    """A number no setting can have; the message says what it must be."""


def _within(number: float, limit: float) -> bool:
    """False for NaN."""
    if abs(number) > limit:
        raise _OutOfRange(f"from {-limit:g} to {limit:g}")
    return not math.isnan(number)


def _bool(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    return words[str(value).strip().lower()] if str(value).strip().lower() in words else _fail()


def _int(value: Any) -> int:
    if isinstance(value, bool):
        _fail()
    number = float(value)
    return int(number) if number.is_integer() and _within(number, _LARGEST_INT) else _fail()


def _float(value: Any) -> float:
    number = _fail() if isinstance(value, bool) else float(value)
    return number if math.isinf(number) or _within(number, _LARGEST_FLOAT) else _fail()


def _str(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else _fail()


def _sequence(value: Any) -> list[Any]:
    if isinstance(value, str) and value.strip()[:1] in "[(":
        value = ast.literal_eval(value)
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return list(value) if isinstance(value, list | tuple) else _fail()


def _pair(value: Any) -> tuple[float, float]:
    first, second = map(_float, _sequence(value))
    return first, second


def _fail() -> Any:
    raise ValueError


_PARSERS: dict[str, Any] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "list[str]": lambda value: [str(item) for item in _sequence(value)],
    "tuple[float, float]": _pair,
}
_KIND_NAMES = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list[str]": "a list",
    "tuple[float, float]": "two numbers",
}


def _known(name: str, where: str) -> str:
    normal = name.replace("-", "_")
    if normal not in FIELDS:
        raise UserError(f"{where}: unknown setting {name!r}{closest(normal, FIELDS)}")
    later = FIELDS[normal].metadata.get("later")
    if later:
        raise UserError(f"{where}: {normal} belongs to {later}, which this version does not have yet")
    return normal


def parse_command_line(words: list[str]) -> dict[str, Any]:
    """`--key value`, `--key=value`, or a bare `--key` for a boolean; of a repeated flag the last counts."""
    where, values, index = COMMAND_LINE, {}, 0
    while index < len(words):
        word = words[index]
        if not word.startswith("--"):
            raise UserError(f"{where}: expected a --setting, found {word!r}")
        name, equals, value = word[2:].partition("=")
        name = _known(name, where)
        index += 1
        if not equals:
            bare = index == len(words) or words[index].startswith("--")
            if bare and not str(FIELDS[name].type).startswith("bool"):
                raise UserError(f"{where}: --{name} needs a value")
            value = "True" if bare else words[index]
            index += not bare
        values[name] = parse_value(name, value, where)
    return values


def parse_table(text: str) -> dict[str, Any]:
    """The args[...] table of run_bmtrain.sh, handed over as lines of `key=value`; empty means unset."""
    where, values = TABLE, {}
    for line in filter(None, text.splitlines()):
        name, _, value = line.partition("=")
        if value.strip():
            name = _known(name.strip(), where)
            values[name] = parse_value(name, value.strip(), where)
    return values


def read_train_config(path: Path) -> dict[str, Any]:
    """train_configs/*.json: settings, possibly under "pretrain" or "finetune"."""
    content = read_json(path)
    if isinstance(content, dict) and len(content) == 1 and next(iter(content)) in ("pretrain", "finetune"):
        content = next(iter(content.values()))
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object of settings")
    for section in ("pretrain", "finetune"):
        if section in content:
            raise UserError(f"{path}: settings may stand under {section!r} only where it is the only key of the file")
    values = {}
    for name, value in content.items():
        known = _known(name, str(path))
        if value is not None and value != "":
            values[known] = parse_value(known, value, str(path))
    return values


def config_paths(config: str) -> tuple[Path, Path]:
    """The model config and the train config (which may not exist) that `config` names.

    A name's are both the current folder's where the model config is there, else both the repository's.
    """
    if config.endswith(".json"):
        model = user_path(config)
        return model, model.parent.parent / "train_configs" / model.name
    name = f"{config}.json"
    root = Path() if Path("model_configs", name).exists() else REPOSITORY
    return root / "model_configs" / name, root / "train_configs" / name


def read_settings(words: list[str], table: str = "") -> Settings:
    """Merge all sources of settings and check the result; a UserError names the source and the key."""
    from_table, from_line = parse_table(table), parse_command_line(words)
    config = from_line.get("config", from_table.get("config", FIELDS["config"].default))
    train_config = config_paths(config)[1]
    from_file = read_train_config(train_config) if train_config.exists() else {}
    from_file.pop("config", None)
    file = _shown(train_config)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for where, found in ((TABLE, from_table), (file, from_file), (COMMAND_LINE, from_line)):
        values.update(found)
        sources.update(dict.fromkeys(found, where))
    settings = Settings(**values, sources=sources)
    check_settings(settings)
    return settings


def _shown(path: Path) -> str:
    """A path as a person would write it in the repository."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def check_settings(settings: Settings) -> None:
    """Refuse values that no run can have, before anything is loaded."""
    for name in ("n_gpus", "max_length", "batch_size", "grad_accum", "train_iters", "save_iters", "log_iters"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(settings, name)}")
    for name in ("dataloader_num_workers", "dataloader_num_threads", "dataloader_prefetch", "inspect_iters"):
        if getattr(settings, name) < 0:
            raise UserError(f"{name} must not be negative, not {getattr(settings, name)}")
    for name in ("parallel_load_datastate", "dataloader_prefetch_factor"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(settings, name)}")
    if settings.dataloader != "indexed":
        raise UserError(f"dataloader {settings.dataloader!r} does not exist: the only one is 'indexed'")
    if settings.flash in ("1d", "triton"):
        raise UserError(f"flash={settings.flash} is no longer there: use flash=cuda, which picks the best kernel")
    if settings.flash not in ("cuda", "none"):
        raise UserError(
            f"flash must be cuda or none, not {settings.flash!r}{closest(settings.flash, ['cuda', 'none'])}"
        )
    if settings.lr_scheduler not in SCHEDULERS:
        hint = closest(settings.lr_scheduler, SCHEDULERS)
        raise UserError(f"lr_scheduler must be one of {', '.join(SCHEDULERS)}, not {settings.lr_scheduler!r}{hint}")
    if settings.tp_size != 1:
        raise UserError(f"tp_size={settings.tp_size}: tensor parallelism belongs to a later version; use tp_size=1")
    if settings.async_save:
        raise UserError("async_save=True: background checkpoints belong to a later version; use async_save=False")
    _check_start(settings)
    _check_names(settings)
    _check_optimisation(settings)


def _check_names(settings: Settings) -> None:
    """The run's name is that of its folders, whose other entries are not to be met."""
    name, group = settings.model_unique, Path(settings.exp_group)
    if not name or "/" in name or "\0" in name or name in (".", "..", "logs") or len(name.encode()) > 200:
        raise UserError(
            f"model_unique names the run's folders: it must be a name (without /, not logs), not {shown(name)}"
        )
    if group.is_absolute() or ".." in group.parts or "\0" in settings.exp_group:
        raise UserError(f"exp_group begins the name of a folder below tensorboard/, so not {shown(settings.exp_group)}")


def _check_start(settings: Settings) -> None:
    if not settings.pretrained_model:
        return
    if settings.resume_ckpt not in ("", "latest"):
        raise UserError(
            f"pretrained_model starts a new run and resume_ckpt {settings.resume_ckpt} continues one: give only one of "
            'them (beside resume_ckpt "latest", pretrained_model is used where there is nothing to resume)'
        )
    if "lr" not in settings.sources and not settings.only_run_dataloader:
        raise UserError(
            f"lr is not set, and its default, {settings.lr:g}, would destroy the weights of pretrained_model: give the "
            f"peak learning rate as --lr 1e-5, say, or as lr in {_shown(config_paths(settings.config)[1])}"
        )


def _check_optimisation(settings: Settings) -> None:
    for name in ("warmup_iters", "drop_iters", "weight_decay", "clip_grad", "loss_scale", "lr"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{name} must be finite and not negative, not {value}")
    for name, least in (("loss_scale_steps", 1), ("resume_no_optimze", 0), ("drop_begin", -1)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} must be at least {least}, not {getattr(settings, name)}")
    if not 0 <= settings.max_damaged_share <= 1:
        raise UserError(f"max_damaged_share must be from 0 to 1, not {settings.max_damaged_share}")
    for name in ("drop_rate", "eps", "min_loss_scale"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} must be finite and positive, not {value}")
    if not 0 <= settings.seed < 1 << 32:
        raise UserError(f"seed must be from 0 to 4294967295, not {settings.seed}")
    if not all(0 <= beta < 1 for beta in settings.betas):
        raise UserError(f"betas must be in [0, 1), not {settings.betas}")
    if settings.iterations("warmup_iters") > settings.train_iters:
        raise UserError(
            f"warmup_iters ({settings.warmup_iters:g}) is beyond train_iters ({settings.train_iters}): the first is "
            f"from: {settings.source('warmup_iters')}, the second from: {settings.source('train_iters')}; "
            "--warmup_iters 0.05 means a twentieth of any train_iters"
        )
    if settings.lr_scheduler != "cosine" and settings.iterations("drop_iters") < 1:
        raise UserError(f"{settings.lr_scheduler} needs drop_iters of at least one iteration")
    if not 1 < settings.loss_scale_factor < math.inf:
        raise UserError(f"loss_scale_factor must be finite and above 1, not {settings.loss_scale_factor}")


def describe_settings() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every setting, for --help and the docs."""
    rows = []
    for name, item in FIELDS.items():
        default = "unset" if item.default is None or item.default == "" else str(item.default)
        later = item.metadata.get("later")
        rows.append((name, default, item.metadata["meaning"] + (f" (a later version: {later})" if later else "")))
    return rows


def help_text() -> str:
    """What --help prints."""
    lines = ["Settings, as --name value (a boolean works bare):", ""]
    for name, default, meaning in describe_settings():
        lines += [f"  --{name}  [{default}]", f"      {meaning}"]
    return "\n".join(lines)
