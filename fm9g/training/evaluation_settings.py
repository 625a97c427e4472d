"""The settings of held-out evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fm9g.errors import UserError
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
    )
    validation_split: float = setting(
        0.0,
        "instead of eval_dataset: the share of each dataset's records that is evaluated and never trained on, the same "
        "records for ever",
        "代替 eval_dataset：每个数据集中用于评估、绝不训练的记录所占比例，永远是同样的记录",
        least=0,
        most=0.999,
    )
    allow_overlap: bool = setting(
        False,
        "evaluate on records that are trained on too, with a warning; else they are refused",
        "允许评估也用于训练的记录，仅给出警告；否则拒绝运行",
        needs=("eval_dataset",),
    )
    max_eval_samples: int | None = setting(
        None,
        "records of each dataset that are evaluated at most",
        "每个数据集最多评估的记录数",
        least=1,
        needs=("eval_dataset", "validation_split"),
    )
    eval_interval: float = setting(
        500,
        "iterations between evaluations, or below 1 a part of an epoch; the first and the last are at the run's "
        "beginning and end",
        "两次评估之间的迭代数，小于 1 时为一轮的一部分；运行开始和结束时总会评估",
        least=0,
        needs=("eval_dataset", "validation_split"),
    )
    save_best: bool = setting(
        False,
        "write a checkpoint whenever an evaluation is the best so far; the best is named in the file best",
        "每当评估结果为迄今最佳时写一个检查点；最佳者记在文件 best 中",
        needs=("eval_dataset", "validation_split"),
    )
    early_stop: int = setting(
        0,
        "evaluations in a row without a lower held-out loss after which a run ends; 0: it does not",
        "连续多少次评估未使留出损失降低后结束运行；0：不提前结束",
        least=0,
        needs=("eval_dataset", "validation_split"),
    )
    eval_iters: int = setting(
        0,
        "steps that an evaluation reads, of as many rows as in training, the same each time; 0: every dataset once",
        "一次评估读取的步数，每步的行数与训练相同，每次都是同样的行；0：每个数据集读一遍",
        least=0,
        needs=("eval_dataset", "validation_split"),
    )

    sample_prompts: str = setting(
        "",
        "texts to go on with at each evaluation, told in the log and in TensorBoard: a file with one a line, or a list "
        "in JSON; questions, where all data are conversations of one template",
        "每次评估时让模型续写的文本，写入日志和 TensorBoard：一行一条的文件，或 JSON 列表；"
        "数据全为同一模板的对话时作为提问",
        needs=("eval_dataset", "validation_split"),
    )

    def check(self) -> None:
        """What is held out is said once."""
        if self.eval_dataset and self.validation_split:
            raise UserError("eval_dataset and validation_split both say what is held out: set one of them")
        every = self.eval_interval
        if every <= 0 or (every >= 1 and every != int(every)):
            raise UserError(f"eval_interval must be whole iterations, or a part of an epoch below 1, not {every:g}")
