"""The settings of optimisation: how long, how fast, and with what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from fm9g.errors import UserError, shown
from fm9g.objectives import OBJECTIVES
from fm9g.settings import Group, setting

SCHEDULERS = ("cosine", "warmupstabledrop", "warmupstableexp")


def _span(text: str) -> tuple[int, int]:
    """The first and the last iteration that an item of skip_iters means."""
    found = re.fullmatch(r"([0-9]{1,12})(?:-([0-9]{1,12}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise UserError(f"skip_iters: {shown(text)} is neither an iteration nor a span as 1200-1250")
    return first, last


@dataclass(frozen=True)
class OptimizerSettings(Group):
    """The length of a run, its learning rate, AdamW and the loss scale."""

    title: ClassVar[str] = "Optimisation"
    chinese_title: ClassVar[str] = "优化"

    objective: str = setting(
        "pretrain",
        "what is learned: " + ", ".join(f"{name} ({named.meaning})" for name, named in OBJECTIVES.items()),
        "训练目标：" + "、".join(f"{name}（{named.chinese}）" for name, named in OBJECTIVES.items()),
        choices=OBJECTIVES,
        fixed=True,
    )
    train_iters: int = setting(10000, "iterations to run", "要运行的迭代数", least=1, told=True)
    num_train_epochs: float | None = setting(
        None,
        "instead of train_iters: about as many iterations as read the tokens of all datasets so often",
        "代替 train_iters：约为把所有数据集的 token 读这么多遍所需的迭代数",
        above=0,
    )
    lr: float = setting(
        1e-2,
        "peak learning rate; must be given with pretrained_model",
        "学习率峰值；有 pretrained_model 时必须给出",
        least=0,
        most=1e30,  # which the arithmetic of an update bears
        told=True,
    )
    lr_scheduler: str = setting(
        "cosine",
        "cosine, warmupstabledrop or warmupstableexp",
        "cosine、warmupstabledrop 或 warmupstableexp",
        choices=SCHEDULERS,
        lower=True,
        told=True,
    )
    warmup_iters: float = setting(
        20,
        "iterations of linear warm-up; in (0, 1): a fraction of train_iters",
        "线性预热的迭代数；取值在 (0, 1) 内时为 train_iters 的比例",
        least=0,
        told=True,
    )
    warmup_ratio: float | None = setting(
        None,
        "the same as a fraction of train_iters, as others have it",
        "同上，以 train_iters 的比例给出，与其他框架一致",
        least=0,
        most=1,
    )
    drop_iters: float = setting(
        0.1,
        "iterations of the final drop; in (0, 1): a fraction of train_iters",
        "最后下降阶段的迭代数；取值在 (0, 1) 内时为 train_iters 的比例",
        least=0,
    )
    drop_begin: int = setting(
        -1,
        "iteration at which the drop begins; -1: train_iters - drop_iters",
        "开始下降的迭代；-1：train_iters - drop_iters",
        least=-1,
    )
    drop_rate: float = setting(
        0.5,
        "warmupstableexp: what the rate is multiplied by every drop_iters",
        "warmupstableexp：每 drop_iters 个迭代学习率乘以的系数",
        above=0,
        most=1,
    )
    weight_decay: float = setting(
        0.1,
        "AdamW's decoupled weight decay, on every parameter",
        "AdamW 的解耦权重衰减，作用于每个参数",
        least=0,
        told=True,
    )
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW's decay rates of the moments", "AdamW 两个矩的衰减率")
    adam_eps: float = setting(
        1e-8,
        "what AdamW adds to the root of the second moment",
        "AdamW 加在二阶矩平方根上的量",
        least=1e-30,  # what float32 surely holds
        most=1,
    )
    clip_grad: float = setting(
        1.0,
        "largest gradient norm; 0 does not clip",
        "梯度范数的上限；0 表示不裁剪",
        least=0,
        told=True,
    )
    offload: bool | None = setting(
        None,
        "optimizer state and step on the CPU; default: on the native backend only",
        "优化器状态与更新放在 CPU 上；默认：仅在 native 后端如此",
    )
    loss_scale: float | None = setting(
        None,
        "initial loss scale; default: none, 65536 for fp16; 0 turns it off",
        "初始损失缩放；默认：无，fp16 为 65536；0 表示关闭",
        least=0,
    )
    loss_scale_factor: float = setting(
        2.0, "what the loss scale is divided or multiplied by", "损失缩放每次除以或乘以的系数", above=1
    )
    loss_scale_steps: int = setting(
        1024, "steps without overflow after which the loss scale grows", "连续多少步没有溢出后增大损失缩放", least=1
    )
    min_loss_scale: float = setting(1.0, "the loss scale does not fall below this", "损失缩放不会低于此值", above=0)

    max_bad_steps: int = setting(
        5,
        "steps in a row without a finite loss and gradient, or beyond outlier_sigma, after which the run stops; until "
        "then they are not learned from",
        "连续多少步的损失或梯度不是有限值（或超出 outlier_sigma）后停止运行；在此之前这些步不参与学习",
        least=1,
    )
    outlier_sigma: float | None = setting(
        None,
        "steps are not learned from whose loss or gradient norm is this many deviations above that of the last 100",
        "损失或梯度范数高出最近 100 步均值这么多个标准差的步不参与学习",
        above=0,
    )
    skip_iters: list[str] | None = setting(
        None,
        "iterations to jump over, as 1200-1250,1300: their data is read and not learned from",
        "要跳过的迭代，如 1200-1250,1300：读取其数据但不学习",
    )

    def skips(self, iteration: int) -> bool:
        """Whether skip_iters names an iteration."""
        return any(first <= iteration <= last for first, last in map(_span, self.skip_iters or []))

    def iterations(self, name: str) -> int:
        """warmup_iters or drop_iters in iterations, where given as a fraction of train_iters."""
        value = getattr(self, name)
        if name == "warmup_iters" and self.warmup_ratio is not None:
            return round(self.warmup_ratio * self.train_iters)
        return round(value * self.train_iters) if 0 < value < 1 else int(value)

    def check(self) -> None:
        """What the decay rates, a schedule and iterations must be."""
        for text in self.skip_iters or []:
            _span(text)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas must be in [0, 1), not {self.betas}")
        if self.lr_scheduler == "cosine":
            return
        drop, given = (
            self.iterations("drop_iters"),
            f"drop_iters {self.drop_iters:g} of train_iters {self.train_iters:,}",
        )
        if drop < 1:
            raise UserError(f"{self.lr_scheduler} needs drop_iters of at least one iteration: {given} are none")
        if self.drop_begin < 0 and drop > self.train_iters:
            raise UserError(f"{given}: the drop would begin before the run, and the rate never be lr")
