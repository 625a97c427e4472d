"""The settings of the model: which one, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fm9g.errors import UserError, closest
from fm9g.settings import Group, setting

_FLASH = ("cuda", "none")
GROUPS = 4  # of S²-Attn, in a row: what its authors found to suffice


@dataclass(frozen=True)
class ModelSettings(Group):
    """Which model is trained, and how it is computed."""

    title: ClassVar[str] = "The model"
    chinese_title: ClassVar[str] = "模型"

    config: str = setting(
        "7b",
        "model_configs/<config>.json and train_configs/<config>.json, or a path",
        "model_configs/<config>.json 与 train_configs/<config>.json，或一个路径",
        told=True,
    )
    eps: float | None = setting(
        None,
        "layer-norm epsilon; overrides the model config when set",
        "层归一化的 epsilon；设置后覆盖模型配置",
        above=0,
    )
    flash: str = setting(
        "cuda",
        "attention kernel: cuda (the best there is) or none (the plain reference)",
        "注意力实现：cuda（可用的最好的一种）或 none（朴素的参考实现）",
    )
    use_checkpoint: bool = setting(
        False, "recompute activations in backward to save memory", "反向时重新计算激活，以节省显存"
    )
    neft_alpha: float = setting(
        0.0,
        "NEFTune: uniform noise up to neft_alpha / sqrt(tokens of the document * dim_model) on embeddings, in training",
        "NEFTune：训练时在嵌入上加均匀噪声，至多 neft_alpha / sqrt(文档的 token 数 * dim_model)",
        least=0,
    )

    shift_attn: bool = setting(
        False,
        "train with S²-Attn: in documents of more than max_length / 4 tokens each token attends to a group of so many",
        "用 S²-Attn 训练：在超过 max_length / 4 个 token 的文档中，每个 token 只关注同样大小的一组",
    )

    def check(self) -> None:
        """The kernels that are there."""
        if self.flash in ("1d", "triton"):
            raise UserError(f"flash={self.flash} is no longer there: use flash=cuda, which picks the best kernel")
        if self.flash not in _FLASH:
            raise UserError(f"flash must be cuda or none, not {self.flash!r}{closest(self.flash, _FLASH)}")
