"""PEFT's folders of adapters (adapter_config.json, adapter_model.safetensors), from and to ours.

base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
encoder.layers.0.self_att.self_attention.project_q.lora.lora_A
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fm9g.convert.adapters import SavedAdapters
from fm9g.convert.fused_adapters import is_fused, is_renamed, joined, padded, parts, scaled
from fm9g.convert.layouts import Group, Layouts, groups
from fm9g.errors import UserError, shown
from fm9g.files import read_json, write_json
from fm9g.lora.kind import Kind
from fm9g.lora.layers import LORA_A, LORA_B, MAGNITUDE
from fm9g.lora.merge import Adapter
from fm9g.model.config import ModelConfig
from fm9g.progress_bar import ProgressBar
from fm9g.tensors.lazy import DTYPES, LazyTensor, unsupported
from fm9g.tensors.readers import Checkpoint, read_pt, read_safetensors
from fm9g.tensors.writers import write_safetensors_file

CONFIG, SAFETENSORS, BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_PARTS = {LORA_A: "lora_A.weight", LORA_B: "lora_B.weight", MAGNITUDE: "lora_magnitude_vector"}
# keys of adapter_config.json that are read here, and those that change nothing of what adapters compute; another one
# may mean other mathematics, so it must say that it is off
_READ = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights"),
        *("rank_pattern", "alpha_pattern", "target_modules", "modules_to_save", "base_model_name_or_path"),
        *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode"),
        *("exclude_modules", "layers_to_transform", "layers_pattern"),  # the tensors tell which layers have adapters
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # init_lora_weights says whether they count
        *("megatron_config", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
        *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # ms-swift's, of training
    }
)
_OFF: dict[str, tuple[Any, ...]] = {"bias": ("none", None), "alora_invocation_tokens": (None,)}
_USUALLY_OFF: tuple[Any, ...] = (None, False, "", [])  # not {}: of an object PEFT then takes the defaults
_Number = TypeVar("_Number", int, float)
_MOST = 1e6  # a rank or an alpha
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # init_lora_weights that take a part of the weights


def read_peft(folder: Path) -> SavedAdapters:
    """The adapters in a folder, in its own names; a UserError for what is no LoRA, or not as it is here, by its key."""
    where = folder / CONFIG
    config = read_json(where)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else config
        raise UserError(f"{where}: peft_type is {shown(found)}: only LORA is known here")
    _check_keys(config, where)
    init = config.get("init_lora_weights")
    if not isinstance(init, bool | str | None):
        raise UserError(f"{where}: init_lora_weights={shown(init)} is not supported")
    if isinstance(init, str) and init.lower().startswith(_CHANGES_THE_BASE):
        raise UserError(f"{where}: init_lora_weights={init!r} changed the base, too: save it from PEFT as plain LoRA")
    rslora, dora = (_flag(config, key, where) for key in ("use_rslora", "use_dora"))
    rank, alpha = _rank(config.get("r"), "r", where), _number(config.get("lora_alpha"), "lora_alpha", where)
    kind = Kind(rank, alpha, rslora, dora)
    tensors = _tensors(folder)
    layers = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    if not layers:
        raise UserError(f"{folder}: holds no adapters (no …lora_A.weight)")
    ranks = _by_pattern(config, "rank_pattern", _rank, layers, where)
    alphas = _by_pattern(config, "alpha_pattern", _number, layers, where)
    kinds = dict[str, Kind]()
    adapters = dict[str, Adapter]()
    for layer in layers:
        said, rank = ranks.get(layer, ("r", kind.r))
        kinds[layer] = kind._replace(r=rank, alpha=alphas[layer][1] if layer in alphas else kind.alpha)
        adapters[layer] = _adapter(tensors, layer, kinds[layer], folder, said)
    kind, adapters = _of_one_rank(kinds, adapters, where)
    parts = [theirs for part, theirs in _PARTS.items() if kind.dora or part != MAGNITUDE]
    held = {f"{layer}.{part}" for layer in layers for part in parts}
    whole = {name: tensor for name, tensor in tensors.items() if name not in held}
    for name in whole:
        if ".lora_" in name:
            raise UserError(f"{folder}: {name} is nothing that is known of LoRA here")
    _compare(config, [*layers, *(name.removesuffix(".weight") for name in whole)], folder)
    dropout = config.get("lora_dropout") or 0
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{where}: lora_dropout must be a number from 0 to below 1, not {shown(dropout)}")
    return SavedAdapters(folder, kind, float(dropout), adapters, whole)


def _check_keys(config: Mapping[str, Any], where: Path) -> None:
    """Refuse what may be other mathematics than those known here."""
    for key, value in config.items():
        if key not in _READ and value not in _OFF.get(key, _USUALLY_OFF):
            raise UserError(
                f"{where}: {key}={shown(value)} is not supported; remove it if it changes nothing that adapters compute"
            )


def _by_pattern(
    config: Mapping[str, Any], key: str, parse: Callable[[Any, str, Path], _Number], layers: Sequence[str], where: Path
) -> dict[str, tuple[str, _Number]]:
    """{layer: (what says it, its number)} by rank_pattern or alpha_pattern, as PEFT has it (get_pattern_key): regular
    expressions for ends of names, of which the first that matches counts."""
    named = {} if config.get(key) is None else config[key]
    if not isinstance(named, dict):
        raise UserError(f"{where}: {key} must be an object, not {shown(named)}")
    found = dict[str, tuple[str, _Number]]()
    for pattern, value in named.items():
        said = f"{key} {shown(pattern)}"
        number = parse(value, said, where)
        try:
            expression = re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"{where}: {said} is no regular expression: {getattr(error, 'msg', error)}") from None
        matched = [layer for layer in layers if expression.match(layer)]
        if not matched:
            raise UserError(f"{where}: {said} matches no layer with an adapter: mend it, or remove it")
        for layer in matched:
            found.setdefault(layer, (said, number))
    return found


def _of_one_rank(
    kinds: Mapping[str, Kind], adapters: Mapping[str, Adapter], where: Path
) -> tuple[Kind, dict[str, Adapter]]:
    """Adapters of the largest rank that there is, the others filled up (`padded`); a UserError for other scales."""
    largest = max(kinds.values(), key=lambda kind: kind.r)
    for layer, kind in kinds.items():
        if not math.isclose(kind.scale, largest.scale):
            raise UserError(
                f"{where}: {layer} is scaled by {kind.scale:g}, others by {largest.scale:g} (rank_pattern, "
                "alpha_pattern), which is not supported"
            )
    return largest, {layer: padded(adapter, largest.r, layer) for layer, adapter in adapters.items()}


def _compare(config: Mapping[str, Any], held: list[str], folder: Path) -> None:
    """Refuse a folder without a module that it says was trained whole, and say which layers it names and has not: a
    model may well not have them."""

    def lacking(key: str) -> list[str]:
        named = config.get(key)
        names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        return sorted(name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in held))

    if missing := lacking("modules_to_save"):
        raise UserError(f"{folder}: modules_to_save names {', '.join(missing)}, which it does not hold")
    if missing := lacking("target_modules"):
        said = f"note: {folder}: target_modules names {', '.join(missing)}, and there is no adapter for any such layer"
        print(said, file=sys.stderr)


def _number(value: Any, what: str, where: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
        raise UserError(f"{where}: {what} must be a number above 0, at most {_MOST:,.0f}, not {shown(value)}")
    return float(value)


def _rank(value: Any, what: str, where: Path) -> int:
    number = _number(value, what, where)
    if not number.is_integer():
        raise UserError(f"{where}: {what} must be a whole number, not {shown(value)}")
    return int(number)


def _flag(config: Mapping[str, Any], key: str, where: Path) -> bool:
    value = config.get(key)
    if not isinstance(value, bool | None):
        raise UserError(f"{where}: {key} must be true or false, not {shown(value)}")
    return bool(value)


def _tensors(folder: Path) -> Checkpoint:
    """The tensors by their names in the model, without what PEFT puts before and into them."""
    path = folder / SAFETENSORS
    path = path if path.exists() else folder / BIN
    found = read_pt(path) if path.name == BIN else read_safetensors(path)
    for name, tensor in found.items():
        if tensor.dtype not in DTYPES:
            raise UserError(f"{path}: {name}: dtype {tensor.dtype} ({unsupported(tensor.dtype)})")
    return {
        name.removeprefix(_PREFIX).replace(".default", "").replace(".modules_to_save", ""): tensor
        for name, tensor in found.items()
    }


def _adapter(tensors: Checkpoint, layer: str, kind: Kind, folder: Path, said: str) -> Adapter:
    """The adapter of a layer, whose rank must be what `said` of the config says."""
    wanted = {part: f"{layer}.{theirs}" for part, theirs in _PARTS.items() if kind.dora or part != MAGNITUDE}
    for name in wanted.values():
        if name not in tensors:
            raise UserError(f"{folder}: {name} is missing")
    made = Adapter(*(tensors[name] for name in wanted.values()))
    if made.a.shape[0] != kind.r:
        raise UserError(f"{folder}: {layer} has an adapter of rank {made.a.shape[0]}, {CONFIG} says {kind.r} ({said})")
    return made


def our_names(found: Sequence[Group]) -> dict[str, str]:
    """{their name: ours} of the weights that are the same on both sides."""
    return {
        theirs.name: ours.name
        for group in filter(is_renamed, found)
        for theirs, ours in zip(group.theirs, group.ours, strict=True)
    }


def in_our_names(peft: SavedAdapters, config: ModelConfig, layouts: Layouts) -> SavedAdapters:
    """The adapters of a folder by our names; a UserError for one that is not for such a model."""
    if config.tie_lm_head and peft.whole:
        name = next(iter(peft.whole))
        raise UserError(f"{peft.path}: {name} was trained untied, but embedding and head are one here")
    found = groups(config, layouts)
    names, fused = our_names(found), {group.theirs[0].name: group for group in found if is_fused(group)}
    adapters = dict[str, Adapter]()
    for layer, adapter in peft.adapters.items():
        weight = f"{layer}.weight"
        ours = parts(fused[weight], adapter) if weight in fused else [(_known(weight, names, peft.path), adapter)]
        adapters |= {name.removesuffix(".weight"): part for name, part in ours}
    whole = {_known(name, names, peft.path): tensor for name, tensor in peft.whole.items()}
    return peft._replace(adapters=adapters, whole=whole)


def _known(theirs: str, names: Mapping[str, str], folder: Path) -> str:
    if theirs not in names:
        raise UserError(f"{folder}: is for {theirs}, which is no tensor of this model by itself")
    return names[theirs]


def check_sayable(saved: SavedAdapters, config: ModelConfig) -> None:
    """Refuse adapters of ours for which there is no folder."""
    if config.tie_lm_head and saved.whole:
        raise UserError(
            f"{saved.path}: the embedding was trained whole, with the head tied to it, which PEFT's folder cannot say: "
            "merge the adapters instead (without --adapter-only)"
        )


def write_peft(saved: SavedAdapters, config: ModelConfig, layouts: Layouts, base: str, folder: Path) -> None:
    """Write adapters of ours into a folder; `base`: what base_model_name_or_path is to be."""
    found = groups(config, layouts)
    theirs = {ours: name for name, ours in our_names(found).items()}
    tensors, of_layers = _theirs(saved, found, theirs)
    kinds = _named(of_layers, found)
    tensors |= {f"{_PREFIX}{theirs[name]}": tensor for name, tensor in saved.whole.items()}
    kind = next(iter(kinds.values())) if len(set(kinds.values())) == 1 else saved.kind
    others = {module: other for module, other in kinds.items() if other != kind}
    whole = {theirs[name].removesuffix(".weight").rpartition(".")[2] for name in saved.whole}
    with ProgressBar(str(folder), sum(tensor.nbytes for tensor in tensors.values())) as progress:
        write_safetensors_file(folder / SAFETENSORS, tensors, progress)
    write_json(
        folder / CONFIG,
        {
            "alpha_pattern": {module: other.alpha for module, other in others.items()},
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": kind.alpha,
            "lora_dropout": saved.dropout,
            "modules_to_save": sorted(whole) or None,
            "peft_type": "LORA",
            "r": kind.r,
            "rank_pattern": {module: other.r for module, other in others.items()},
            "target_modules": sorted(kinds),
            "task_type": "CAUSAL_LM",
            "use_dora": saved.kind.dora,
            "use_rslora": saved.kind.rslora,
        },
    )


def _theirs(
    saved: SavedAdapters, found: Sequence[Group], theirs: Mapping[str, str]
) -> tuple[dict[str, LazyTensor], dict[str, Kind]]:
    """The tensors of adapters by PEFT's names, and of each layer, by its name there, what its adapter is."""
    ours = {f"{layer}.weight": adapter for layer, adapter in saved.adapters.items()}
    made = {theirs[name]: (1, adapter) for name, adapter in ours.items() if name in theirs}
    covered = set(theirs)
    for group in filter(is_fused, found):
        covered |= {one.name for one in group.ours}
        if any(one.name in ours for one in group.ours):
            made[group.theirs[0].name] = joined(group, ours, str(saved.path))
    for name in ours:
        if name not in covered:
            raise UserError(f"{saved.path}: {name.removesuffix('.weight')} is no layer of this model in its own names")
    tensors, kinds = dict[str, LazyTensor](), dict[str, Kind]()
    for name, (count, adapter) in made.items():
        layer = name.removesuffix(".weight")
        kinds[layer] = scaled(saved.kind, count)
        for part, tensor in zip(_PARTS.values(), adapter, strict=True):
            if tensor is not None:
                tensors[f"{_PREFIX}{layer}.{part}"] = tensor
    return tensors, kinds


def _named(kinds: Mapping[str, Kind], found: Sequence[Group]) -> dict[str, Kind]:
    """{end of names: kind} for target_modules and the patterns: of each layer with an adapter the shortest end that
    only layers with adapters of its kind have, since PEFT takes a name for all whose names end with it."""
    modules = {one.name.rpartition(".")[0] for group in found for one in group.theirs}
    meant = dict[str, set[Kind | None]]()
    for module in modules:
        for end in _ends(module):
            meant.setdefault(end, set()).add(kinds.get(module))
    return {next((end for end in _ends(layer) if meant[end] == {kind}), layer): kind for layer, kind in kinds.items()}


def _ends(name: str) -> list[str]:
    """a.b.c -> c, b.c, a.b.c"""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in reversed(range(len(parts)))]
