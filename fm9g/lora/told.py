"""What stands beside adapters in a file: what they are, and for which weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fm9g.errors import UserError
from fm9g.files import read_json
from fm9g.lora.kind import Kind
from fm9g.lora.layers import matching
from fm9g.lora.settings import LoraSettings
from fm9g.model.config import ModelConfig
from fm9g.tensors.forms import beside

_KIND = {"r": "lora_r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}


class Told(NamedTuple):
    """What a file says of adapters; None where it does not. `base`: the fingerprint of the weights; `layers`: names in
    a block."""

    where: Path
    kind: Kind
    layers: tuple[str, ...] | None = None
    base: str | None = None
    dropout: float = 0.0


def note_path(adapters: Path) -> Path:
    """Where it stands what adapters are that were converted to ours: a train config."""
    return beside(adapters, ".lora.json")


def told_of(adapters: Path) -> Told | None:
    """What the state.json of the run that saved adapters says of them, or the note beside them; None where neither is.

    UserError where it is there and says nothing.
    """
    path, keys = adapters.with_name("state.json"), {name: name for name in _KIND}
    content = read_json(path) if path.exists() else {}
    found = content.get("adapters") if isinstance(content, dict) else None
    if found is None and note_path(adapters).exists():
        path, keys = note_path(adapters), _KIND
        found = read_json(path)
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), int | float) for key in keys.values()):
        raise UserError(f"{path}: does not say what the adapters in {adapters} are ({', '.join(keys.values())})")
    values = {ours: found[theirs] for ours, theirs in keys.items()}
    kind = Kind(values["r"], float(values["alpha"]), bool(values["rslora"]), bool(values["dora"]))
    layers = found.get("layers", found.get("lora_layer"))
    dropout = float(found.get("dropout") or found.get("lora_dropout") or 0)
    return Told(path, kind, tuple(layers) if isinstance(layers, list) else None, found.get("base"), dropout)


def check_told(adapters: Path, settings: LoraSettings, config: ModelConfig) -> str:
    """Refuse adapters that are said to be of another kind, or for other layers, than those of a run; what to
    log where nothing is said."""
    told = told_of(adapters)
    if told is None:
        return f"nothing says what the adapters in {adapters} are: taken for those of this run ({settings.kind})"
    kinds = zip(told.kind._asdict().items(), settings.kind, strict=True)
    differ = [f"their {name} is {was}, not {now}" for (name, was), now in kinds if was != now]
    layers = matching(config, settings.layers_in(config))
    if told.layers is not None and sorted(matching(config, told.layers)) != sorted(layers):
        differ.append(f"their layers are {', '.join(told.layers)}, not {', '.join(layers)}")
    if differ:
        raise UserError(f"{adapters}: adapters that do not fit this run ({told.where}): {'; '.join(differ)}")
    return ""


def check_base(adapters: Path, base: str, weights: Path) -> None:
    """Refuse adapters that are said to be for other weights than those of the fingerprint `base`."""
    told = told_of(adapters)
    if told is not None and told.base is not None and told.base != base:
        raise UserError(f"{adapters}: adapters for other weights than {weights} ({told.where})")
