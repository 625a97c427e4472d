"""The settings of a run: its groups, and the places that values come from.

Later over earlier: the defaults; the args[...] table of run_bmtrain.sh; train_configs/<config>.json; the file of
lora_config; the command line.
Docs and --help are made from the groups, so they cannot differ from the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fm9g.checkpoint.settings import OutputSettings, StartSettings
from fm9g.data.chat.settings import ChatSettings
from fm9g.data.stream.settings import DataSettings
from fm9g.environment import REPOSITORY, whole_number
from fm9g.errors import UserError
from fm9g.files import read_json, user_path
from fm9g.lora.settings import LoraSettings, read_lora_config
from fm9g.model.settings import GROUPS, ModelSettings
from fm9g.settings import Group, Merged, fields, merge, parse_lines, parse_mapping, parse_words, setting
from fm9g.training.evaluation_settings import EvaluationSettings
from fm9g.training.metrics_settings import MetricsSettings
from fm9g.training.optimizer_settings import OptimizerSettings
from fm9g.training.other_trainers import advice

ADAPTED = "_lora"  # at the end of a train config's name
COMMAND_LINE, TABLE = "command line", "the args table of run_bmtrain.sh"
_SECTIONS = ("pretrain", "finetune")  # under which a train config's settings may stand


@dataclass(frozen=True)
class RunSettings(Group):
    """The processes of a run, and how rows are dealt to them."""

    title: ClassVar[str] = "How it is run"
    chinese_title: ClassVar[str] = "如何运行"

    n_gpus: int = setting(
        2,
        "processes on this node (CPU ranks where there is no GPU)",
        "本节点的进程数（没有 GPU 时为 CPU 进程数）",
        least=1,
    )
    batch_size: int = setting(
        1,
        "rows per rank (of tp_size ranks together, per group) and micro-step",
        "每个进程（tp_size 个进程共享时为每组）每个微步的行数",
        least=1,
        told=True,
    )
    grad_accum: int = setting(1, "micro-steps per optimizer step", "每个优化器步的微步数", least=1, told=True)
    tp_size: int = setting(
        1,
        "ranks, next to each other, that share rows: each has a part of the heads, of dim_ff and of the tokens",
        "共享同一批行的相邻进程数（张量并行）：每个进程负责一部分注意力头、dim_ff 与 token",
        least=1,
        told=True,
    )
    seed: int = setting(1234, "everything random derives from it", "一切随机性由它决定", least=0, told=True, fixed=True)
    max_restarts: int = setting(
        0,
        "how often ranks are started anew, to go on from the newest whole checkpoint, when one of them has died",
        "有进程死亡时，重新启动各进程、从最新的完整检查点继续的次数",
        least=0,
    )
    step_timeout: float = setting(
        1800.0,
        "seconds without a step, an evaluated batch or a written checkpoint after which the run ends and names the "
        "ranks that others wait for, with their stacks",
        "多少秒内没有完成一步、一个评估批次或一次检查点写入就结束运行，并给出其他进程所等待的进程及其调用栈",
        above=0,
    )
    max_hours: float | None = setting(
        None,
        "hours after which the run saves and stops, with exit status 75, to go on with resume_ckpt latest",
        "运行多少小时后保存并停止，退出状态为 75，之后可用 resume_ckpt latest 继续",
        above=0,
    )
    local: bool = setting(
        False,
        "True: paths as they are; False: relative ones are also looked for beside the app",
        "True：路径原样使用；False：相对路径还会在应用目录旁查找",
    )
    ignore_cuda_oom: bool = setting(
        True,
        "a rank that is alone jumps over a step that its GPU has no memory for; 0 ends the run, as with several ranks",
        "单进程时跳过 GPU 显存不足的一步；0 表示结束运行，多进程时总是如此",
    )
    check_cluster: bool = setting(
        False,
        "instead of training measure how fast nodes talk, and check clocks, versions and that all see output_dir",
        "不训练，而是测量各节点之间的通信速度，并检查时钟、版本以及是否都能看到 output_dir",
    )
    dry_run: bool = setting(
        False, "check everything, report sizes and memory, and exit", "检查一切，报告规模与内存，然后退出"
    )

    def check(self) -> None:
        """Groups of ranks are equal."""
        if self.tp_size > 1:
            self.data_ranks(self.ranks)

    @property
    def ranks(self) -> int:
        """The processes of all nodes, as a launcher has started them, or will."""
        return whole_number("WORLD_SIZE", self.n_gpus * whole_number("NNODES", 1, least=1), least=1)

    def data_ranks(self, ranks: int) -> int:
        """Among how many the rows of a step are dealt; a UserError where tp_size does not divide the ranks."""
        if ranks % self.tp_size:
            raise UserError(f"tp_size {self.tp_size} does not divide the {ranks} rank(s) of the run")
        return ranks // self.tp_size


@dataclass(frozen=True)
class Settings(
    StartSettings,
    ModelSettings,
    DataSettings,
    ChatSettings,
    RunSettings,
    OptimizerSettings,
    EvaluationSettings,
    OutputSettings,
    MetricsSettings,
    LoraSettings,
    Merged,
):
    """All settings of a run, after merging."""

    @staticmethod
    def advice(name: str) -> str:
        """What a flag of another trainer's guide is here."""
        return advice(name)

    def check(self) -> None:
        """What one group's settings mean for another's."""
        self._check_start()
        if self.num_train_epochs and {self.sources.get(n) for n in ("train_iters", "num_train_epochs")} == {
            COMMAND_LINE
        }:
            raise UserError("train_iters and num_train_epochs both say how long the run is: give one of them")
        if self.pretrained_model and "lr" not in self.sources and not self.only_run_dataloader:
            raise UserError(
                f"lr is not set, and its default, {self.lr:g}, would destroy the weights of pretrained_model: give the "
                f"peak learning rate as --lr 1e-5, say, or as lr in {_shown(config_paths(self.config)[1])}"
            )
        if self.shift_attn and self.max_length < 2 * GROUPS:
            raise UserError(f"shift_attn needs a max_length of {2 * GROUPS} at least, not {self.max_length}")
        if self.warmup_ratio is not None and self.sources.get("warmup_iters") == COMMAND_LINE:
            raise UserError("warmup_iters and warmup_ratio say the same: give one of them")
        if self.iterations("warmup_iters") > self.train_iters:
            raise UserError(
                f"warmup_iters ({self.warmup_iters:g}) is beyond train_iters ({self.train_iters}): the first is "
                f"from: {self.source('warmup_iters')}, the second from: {self.source('train_iters')}; "
                "--warmup_iters 0.05 means a twentieth of any train_iters"
            )

    @property
    def attention_group(self) -> int:
        """The tokens of a group of S²-Attn; 0 without it."""
        return self.max_length // GROUPS if self.shift_attn else 0

    @property
    def counts_epochs(self) -> bool:
        """Whether num_train_epochs says how long the run is, and not a train_iters that was given after it."""
        if self.num_train_epochs is None:
            return False
        return self.sources.get("train_iters") != COMMAND_LINE or self.sources["num_train_epochs"] == COMMAND_LINE

    def _check_start(self) -> None:
        """A run starts from one thing; one that trains adapters always needs the weights that these are for."""
        if self.lora and not self.pretrained_model and not self.only_run_dataloader:
            raise UserError("lora=1 trains adapters of a model: give its weights as pretrained_model")
        started = "pretrained_lora" if self.lora else "pretrained_model"
        if getattr(self, started) and self.resume_ckpt not in ("", "latest"):
            raise UserError(
                f"{started} starts a new run and resume_ckpt {self.resume_ckpt} continues one: give only one of them "
                f'(beside resume_ckpt "latest", {started} is used where there is nothing to resume)'
            )


def read_train_config(path: Path) -> dict[str, Any]:
    """train_configs/*.json: settings, possibly under "pretrain" or "finetune"."""
    content = read_json(path)
    if isinstance(content, dict) and len(content) == 1 and next(iter(content)) in _SECTIONS:
        content = next(iter(content.values()))
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object of settings")
    for section in _SECTIONS:
        if section in content:
            raise UserError(f"{path}: settings may stand under {section!r} only where it is the only key of the file")
    return parse_mapping(Settings, content, str(path))


def config_paths(config: str) -> tuple[Path, Path]:
    """The model config and the train config (which may not exist) that `config` names.

    A name's are both the current folder's where the model config is there, else both the repository's. "7b_lora" is the
    train config of that name for the model 7b, unless there is a model of that name.
    """
    if config.endswith(".json"):
        model = user_path(config)
        return model, model.parent.parent / "train_configs" / model.name
    for name in (config, config.removesuffix(ADAPTED)):
        for root in (Path(), REPOSITORY):
            model, train = root / "model_configs" / f"{name}.json", root / "train_configs" / f"{config}.json"
            if model.exists() and (name == config or train.exists()):
                return model, train
    return REPOSITORY / "model_configs" / f"{config}.json", REPOSITORY / "train_configs" / f"{config}.json"


def read_settings(words: list[str], table: str = "") -> Settings:
    """Merge all sources of settings and check the result; a UserError names the source and the key."""
    from_table, from_line = parse_lines(Settings, table, TABLE), parse_words(Settings, words, COMMAND_LINE)
    config = from_line.get("config", from_table.get("config", fields(Settings)["config"].default))
    train_config = config_paths(config)[1]
    adapted = train_config.with_name(f"{train_config.stem}{ADAPTED}.json")
    if from_line.get("lora", from_table.get("lora")) and adapted.exists():
        train_config = adapted
    from_file = read_train_config(train_config) if train_config.exists() else {}
    from_file.pop("config", None)
    given = [(TABLE, from_table), (_shown(train_config), from_file)]
    if lora_config := {**from_table, **from_file, **from_line}.get("lora_config", ""):
        given.append((lora_config, read_lora_config(Settings, lora_config)))
    return merge(Settings, [*given, (COMMAND_LINE, from_line)])


def _shown(path: Path) -> str:
    """A path as a person would write it in the repository."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
