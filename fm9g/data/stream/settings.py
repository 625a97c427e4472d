"""The settings of the data that a run reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fm9g.errors import UserError
from fm9g.settings import Group, setting


@dataclass(frozen=True)
class DataSettings(Group):
    """What a run reads, and how."""

    title: ClassVar[str] = "The data"
    chinese_title: ClassVar[str] = "数据"

    tokenizer_path: str = setting(
        "./tokenizer/tokenizer.model",
        "a sentencepiece file or a Hugging Face tokenizer folder",
        "sentencepiece 文件，或 Hugging Face 分词器文件夹",
        told=True,
    )
    dataset_config: str = setting(
        "data_test",
        "the mixture: dataset_config/<name>.json, or a path",
        "数据混合：dataset_config/<name>.json，或一个路径",
        told=True,
    )
    max_length: int = setting(
        4096,
        "tokens in a row; not given, at most as many as the model config's max_length",
        "一行的 token 数；未给出时，不超过模型配置的 max_length",
        least=1,
        told=True,
    )
    dataloader: str = setting("indexed", "the loader; there is only this one", "数据加载器；只有这一种")
    dataloader_num_workers: int = setting(
        1,
        "loader processes per rank; 0 loads in the training process",
        "每个进程的数据加载子进程数；0 表示在训练进程内加载",
        least=0,
    )
    dataloader_num_threads: int = setting(
        1,
        "threads of a loader process that tokenize ahead, and as many that read ahead",
        "每个加载子进程中提前分词的线程数，预读的线程同样多",
        least=0,
    )
    dataloader_prefetch: int = setting(
        1,
        "records read ahead, per lane and dataset, on top of those of its next row",
        "每条通道、每个数据集在下一行所需之外再预读的记录数",
        least=0,
        most=10_000,
    )
    dataloader_prefetch_factor: int = setting(
        1, "batches that each loader process makes ahead", "每个加载子进程提前准备的批次数", least=1
    )
    max_train_samples: int | None = setting(
        None,
        "records of each dataset that are trained on at most, its first ones",
        "每个数据集最多训练的记录数，取最前面的",
        least=1,
    )
    stop_when_end: bool = setting(
        False,
        "when a non-repeating mixture is exhausted: 1 stops early, 0 fails",
        "不重复的数据混合耗尽时：1 提前结束，0 报错",
    )
    max_damaged_share: float = setting(
        0.001,
        "the share of a dataset's records that may be skipped as damaged; more of them fail the run",
        "数据集中因字节损坏而可跳过的记录所占比例；超出则运行失败",
        least=0,
        most=1,
    )
    only_run_dataloader: bool = setting(
        False, "run the data pipeline alone and report on it", "只运行数据流水线并给出报告"
    )
    accept_changed_data: bool = setting(
        False, "resume although a dataset's file is not what it was", "即使数据集文件已改变也继续恢复"
    )

    def check(self) -> None:
        """There is one loader."""
        if self.dataloader != "indexed":
            raise UserError(f"dataloader {self.dataloader!r} does not exist: the only one is 'indexed'")
