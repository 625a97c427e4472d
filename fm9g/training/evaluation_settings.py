"""The settings of held-out evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fm9g.settings import Group, setting


@dataclass(frozen=True)
class EvaluationSettings(Group):
    """Data that is never trained on, and when a run looks at it."""

    title: ClassVar[str] = "Held-out evaluation"
    chinese_title: ClassVar[str] = "留出数据评估"

    eval_dataset: str = setting(
        "",
        "a mixture to evaluate on, named as dataset_config; unset: no evaluation",
        "用于评估的数据混合，写法同 dataset_config；不设则不评估",
        learned_with=True,
    )
    eval_interval: int = setting(
        500,
        "iterations between evaluations; the first and the last are at the run's beginning and end",
        "两次评估之间的迭代数；运行开始和结束时总会评估",
        least=1,
        needs=("eval_dataset",),
    )
    save_best: bool = setting(
        False,
        "write a checkpoint whenever an evaluation is the best so far; the best is named in the file best",
        "每当评估结果为迄今最佳时写一个检查点；最佳者记在文件 best 中",
        needs=("eval_dataset",),
    )
    early_stop: int = setting(
        0,
        "evaluations in a row without a lower held-out loss after which a run ends; 0: it does not",
        "连续多少次评估未使留出损失降低后结束运行；0：不提前结束",
        least=0,
        needs=("eval_dataset",),
    )
    eval_iters: int = setting(
        0,
        "steps that an evaluation reads, of as many rows as in training, the same each time; 0: every dataset once",
        "一次评估读取的步数，每步的行数与训练相同，每次都是同样的行；0：每个数据集读一遍",
        least=0,
        needs=("eval_dataset",),
        learned_with=True,
    )
