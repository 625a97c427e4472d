"""The settings of where a run starts and where it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fm9g.errors import UserError, shown
from fm9g.settings import Group, setting
from fm9g.tensors.forms import FORMS, PT


@dataclass(frozen=True)
class StartSettings(Group):
    """What a run begins with."""

    title: ClassVar[str] = "Where a run starts"
    chinese_title: ClassVar[str] = "从哪里开始"

    pretrained_model: str = setting(
        "",
        "weights in our names to start from, at step 0: a .pt, a .safetensors, a .safetensors.index.json, or the "
        "folder of a checkpoint or of a run (its latest); beside resume_ckpt latest, if nothing is to resume",
        "以我们的参数名保存的权重（.pt、.safetensors、.safetensors.index.json，或一个检查点、一次运行的文件夹，"
        "后者取最新的检查点），从它出发，步数从 0 开始；"
        "与 resume_ckpt latest 同时给出时，只在没有可恢复的检查点时使用",
    )
    resume_ckpt: str = setting(
        "",
        'a step of this run to resume, or "latest" (which starts at 0 if there is none)',
        '从本次运行的某一步继续，或写 "latest"（没有检查点时从 0 开始）',
    )
    only_load_model: bool | None = setting(
        None,
        "with resume_ckpt: 1 loads the weights alone and starts at step 0",
        "与 resume_ckpt 一起使用：1 表示只加载权重，步数从 0 开始",
        needs=("resume_ckpt",),
    )
    load_grad: bool | None = setting(
        None,
        "load the optimizer state; implied by a full resume, 0 starts it anew",
        "加载优化器状态；完整恢复时自动加载，0 表示优化器从头开始",
    )
    grad_ckpt_num: int = setting(
        160,
        "number of optimizer files; found from the checkpoint, checked if given",
        "优化器文件的个数；由检查点自身得出，给出时会核对",
        needs=("resume_ckpt", "load_grad"),
    )
    load_dataloader_ckpt: bool | None = setting(
        None,
        "resume the data position; implied by a full resume, 0 restarts",
        "恢复数据读取位置；完整恢复时自动恢复，0 表示数据从头开始",
        needs=("resume_ckpt",),
    )
    parallel_load_datastate: int = setting(
        8, "threads that read the files of a checkpoint's data state", "读取检查点中数据状态文件的线程数", least=1
    )
    resume_no_optimze: int = setting(
        0,
        "steps after a resume over which the learning rate is ramped from 0",
        "恢复后学习率从 0 线性升起的步数",
        least=0,
        needs=("resume_ckpt",),
    )
    strict_state_dict: bool = setting(
        True,
        "0 allows missing and unexpected keys, and lists them",
        "0 允许缺失或多余的参数名，并将其列出",
        needs=("resume_ckpt", "pretrained_model"),
    )


@dataclass(frozen=True)
class OutputSettings(Group):
    """Where a run writes, and its checkpoints."""

    title: ClassVar[str] = "What is written"
    chinese_title: ClassVar[str] = "写出什么"

    model_unique: str = setting("7b", "the run's name, and that of its folders", "运行的名字，也是它的文件夹名")
    output_dir: str = setting(
        "", "where the run writes; default: the app's data/", "运行写到哪里；默认：应用目录下的 data/"
    )
    exp_group: str = setting("", "prefix of the TensorBoard folder", "TensorBoard 文件夹名的前缀")
    save: bool = setting(True, "write checkpoints", "写检查点")
    save_iters: int = setting(500, "iterations between checkpoints", "两次检查点之间的迭代数", least=1, told=True)
    keep_last: int | None = setting(
        None,
        "checkpoints that are kept: after each save the oldest are deleted, but for the best and those of keep_every; "
        "default: all",
        "保留的检查点个数：每次保存后删除最旧的，最佳者与 keep_every 所留者除外；默认：全部保留",
        least=1,
    )
    keep_every: int | None = setting(
        None,
        "with keep_last: checkpoints of steps that this divides are kept for good",
        "与 keep_last 同用：步数能被它整除的检查点一直保留",
        least=1,
        needs=("keep_last", "save_total_limit"),
    )
    save_total_limit: int | None = setting(
        None, "keep_last, as others call it", "即 keep_last，其他框架的叫法", least=1
    )
    save_failure: str = setting(
        "retry",
        "when a checkpoint cannot be written (a full disk): go on and try again at the next save, or stop; "
        "the last one of a run must be written",
        "检查点写不下去时（例如磁盘已满）：retry 继续训练并在下次保存时重试，stop 停止；最后一个检查点必须写成",
        choices=("retry", "stop"),
    )
    save_format: str = setting(
        PT,
        "the form of the weights in a checkpoint: pt, one file of torch.save, or safetensors, shards of up to 5 GB and "
        "their index, for models whose .pt no host should hold; either is resumed, whatever this says",
        "检查点中权重的形式：pt 为一个 torch.save 文件；safetensors 为每个不超过 5 GB 的分片及其索引，"
        "用于任何主机都不宜容纳其单个 .pt 的模型；无论此处如何设置，两种形式都能恢复",
        choices=FORMS,
    )
    async_save: bool = setting(
        False,
        "write checkpoints in the background, from copies in the host's memory",
        "在后台写检查点，为此在主机内存中保留副本",
    )

    @property
    def kept(self) -> int | None:
        """How many of the newest checkpoints are kept; None: all."""
        return self.save_total_limit if self.keep_last is None else self.keep_last

    def check(self) -> None:
        """The run's name is that of its folders, whose other entries are not to be met."""
        if self.keep_last and self.save_total_limit:
            raise UserError("keep_last and save_total_limit say the same: give one of them")
        name, group = self.model_unique, Path(self.exp_group)
        if not name or "/" in name or "\0" in name or name in (".", "..", "logs") or len(name.encode()) > 200:
            raise UserError(
                f"model_unique names the run's folders: it must be a name (without /, not logs), not {shown(name)}"
            )
        if group.is_absolute() or ".." in group.parts or "\0" in self.exp_group:
            raise UserError(f"exp_group begins the name of a folder below tensorboard/, so not {shown(self.exp_group)}")
