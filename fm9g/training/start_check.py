"""Whether what a run starts from is its model's, found out before there is a model."""

from __future__ import annotations

from fm9g.checkpoint.fit import fitting
from fm9g.lora.layers import adapter_parameters, whole_modules
from fm9g.lora.told import check_base, check_told
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import Parameter, parameters
from fm9g.tensors.fingerprint import fingerprint
from fm9g.training.settings import Settings
from fm9g.training.start import Start


def trained_beside(settings: Settings, config: ModelConfig) -> list[Parameter]:
    """What is trained beside a model that stays as it is: adapters and modules_to_save; [] where it is itself."""
    if not settings.lora:
        return []
    table = adapter_parameters(config, settings.layers_in(config), settings.lora_r, settings.use_dora)
    return table + whole_modules(config, settings.modules_to_save or [])


def check_start(start: Start, settings: Settings, config: ModelConfig) -> None:
    """Refuse weights and adapters that are not this model's or this run's, by their names and shapes and by what is
    said beside them; values are looked at when they are loaded."""
    if start.weights is None or settings.only_run_dataloader:
        return
    strict = settings.strict_state_dict
    fitting(start.weights, {parameter.name: parameter.shape for parameter in parameters(config)}, strict)
    if start.adapters is not None:
        check_told(start.adapters, settings, config)
        check_base(start.adapters, fingerprint(start.weights), start.weights)
        table = trained_beside(settings, config)
        fitting(start.adapters, {parameter.name: parameter.shape for parameter in table}, strict)
