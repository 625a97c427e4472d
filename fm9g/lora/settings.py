"""The settings of LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from fm9g.errors import UserError, closest, shown
from fm9g.files import read_json, user_path
from fm9g.lora.kind import Kind
from fm9g.lora.layers import layers_of, saved_modules, usual_layers
from fm9g.model.config import ModelConfig
from fm9g.settings import Composition, Group, fields, parse_mapping, setting


def read_lora_config(composition: Composition, path: str) -> dict[str, Any]:
    """What a lora_config says, as BELLE's and CALM's guides have it; a UserError for what is no setting of LoRA's."""
    content = read_json(user_path(path))
    if not isinstance(content, dict):
        raise UserError(f"lora_config: {path}: expected an object of settings")
    known = fields(LoraSettings).keys() - {"lora", "lora_config"}
    for name in content:
        if name not in known:
            raise UserError(f"lora_config: {path}: unknown setting {shown(name)}{closest(name, known)}")
    return parse_mapping(composition, content, path)


@dataclass(frozen=True)
class LoraSettings(Group):
    """Adapters of low rank beside layers that stay as they are: y = W x + scale · B A x."""

    title: ClassVar[str] = "LoRA"
    chinese_title: ClassVar[str] = "LoRA"

    lora: bool = setting(
        False,
        "train adapters beside the layers of pretrained_model, which stay as they are",
        "训练适配器，pretrained_model 的各层保持不变",
        told=True,
    )
    lora_config: str = setting(
        "",
        "a JSON file of these settings, read after the train config: lora_r, lora_alpha, lora_target_modules, …",
        "写有这些设置的 JSON 文件，在训练配置之后读取：lora_r、lora_alpha、lora_target_modules 等",
        needs=("lora",),
    )
    lora_layer: list[str] | None = setting(
        None,
        'layers that get adapters, by the ends of their names, or "all"; default: project_q, project_k, project_v, '
        "w_0, w_1, w_out; of a model of experts the first three",
        '加适配器的层，按名称的结尾，或 "all"；默认：project_q、project_k、project_v、w_0、w_1、w_out；'
        "混合专家模型为前三个",
        needs=("lora",),
        replaces=("lora_target_modules",),
    )
    lora_target_modules: list[str] | None = setting(
        None,
        "the same by Hugging Face's names: q_proj, gate_proj, …",
        "同上，用 Hugging Face 的名称：q_proj、gate_proj 等",
        needs=("lora",),
        replaces=("lora_layer",),
    )
    lora_r: int = setting(16, "rank of the adapters", "适配器的秩", least=1, needs=("lora",))
    lora_alpha: float = setting(32.0, "scale: lora_alpha / lora_r", "缩放：lora_alpha / lora_r", needs=("lora",))
    lora_dropout: float = setting(
        0.0, "dropout of what goes into adapters", "适配器输入的 dropout", least=0, needs=("lora",)
    )
    use_rslora: bool = setting(
        False, "scale by lora_alpha / sqrt(lora_r)", "按 lora_alpha / sqrt(lora_r) 缩放", needs=("lora",)
    )
    use_dora: bool = setting(
        False,
        "learn the length of each row of a weight apart (DoRA)",
        "单独学习权重各行的长度（DoRA）",
        needs=("lora",),
    )
    modules_to_save: list[str] | None = setting(
        None,
        "what is trained and saved whole beside adapters: input_embedding, lm_head",
        "除适配器外整体训练并保存的部分：input_embedding、lm_head",
        needs=("lora",),
    )
    pretrained_lora: str = setting(
        "",
        "adapters to start from, at step 0, in any form of pretrained_model",
        "作为起点的适配器，形式同 pretrained_model，步数从 0 开始",
        needs=("lora",),
    )

    def check(self) -> None:
        """Layers are named once, in one way."""
        if self.lora_layer is not None and self.lora_target_modules is not None:
            raise UserError("lora_layer and lora_target_modules name the same: set one of them")
        if self.named_layers == ():
            raise UserError("lora_layer names no layer: adapters need some, or all")
        if self.lora_dropout >= 1:
            raise UserError(f"lora_dropout is a share below 1, not {self.lora_dropout:g}")
        if not 0 < self.lora_alpha < math.inf:
            raise UserError(f"lora_alpha must be a number above 0, not {self.lora_alpha:g}")
        layers_of(self.lora_target_modules or [])
        saved_modules(self.modules_to_save or [])

    @property
    def named_layers(self) -> tuple[str, ...] | None:
        """What lora_layer, in our names, comes to; None where it is not set."""
        if self.lora_target_modules is not None:
            return layers_of(self.lora_target_modules)
        return None if self.lora_layer is None else tuple(self.lora_layer)

    def layers_in(self, config: ModelConfig) -> tuple[str, ...]:
        """The layers that are named, or those that get adapters in such a model where none are."""
        return usual_layers(config) if self.named_layers is None else self.named_layers

    @property
    def kind(self) -> Kind:
        """What these adapters are."""
        return Kind(self.lora_r, self.lora_alpha, self.use_rslora, self.use_dora)
