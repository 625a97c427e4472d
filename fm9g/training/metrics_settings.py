"""The settings of what a run reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fm9g.figures import require_matplotlib
from fm9g.settings import Group, setting


@dataclass(frozen=True)
class MetricsSettings(Group):
    """What a run says of itself, and how often."""

    title: ClassVar[str] = "What is reported"
    chinese_title: ClassVar[str] = "报告什么"

    log_iters: int = setting(
        1,
        "iterations between the lines printed; metrics.jsonl and TensorBoard get each one",
        "每隔多少次迭代打印一行；metrics.jsonl 与 TensorBoard 仍记录每一次",
        least=1,
    )
    inspect_iters: int = setting(
        100,
        "iterations between parameter and gradient summaries (in TensorBoard) or only_run_dataloader reports; 0: none",
        "两次参数与梯度汇总（写入 TensorBoard）或 only_run_dataloader 报告之间的迭代数；0：不汇总",
        least=0,
    )
    tensorboard_all_tasks: bool = setting(
        False, "write every task's loss and tokens to TensorBoard", "把每个任务的损失与 token 数写入 TensorBoard"
    )
    plot_loss: bool = setting(
        False,
        "draw the losses at the run's end, as loss.png beside metrics.jsonl (needs matplotlib)",
        "运行结束时把损失画成 loss.png，放在 metrics.jsonl 旁（需要 matplotlib）",
    )

    def check(self) -> None:
        """What draws is looked for before a run, not after it."""
        if self.plot_loss:
            require_matplotlib()
