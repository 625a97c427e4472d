"""The settings of LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fm9g.settings import Group, setting


@dataclass(frozen=True)
class LoraSettings(Group):
    """Adapters of low rank."""

    title: ClassVar[str] = "LoRA"
    chinese_title: ClassVar[str] = "LoRA"

    lora_layer: list[str] | None = setting(None, "layers that get adapters", "加适配器的层", later="LoRA")
    lora_r: int | None = setting(None, "rank", "秩", later="LoRA")
    lora_alpha: float | None = setting(None, "scale alpha / r", "缩放为 alpha / r", later="LoRA")
    lora_dropout: float | None = setting(None, "dropout", "dropout", later="LoRA")
