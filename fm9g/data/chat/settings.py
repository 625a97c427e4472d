"""The settings of what is learned of conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fm9g.errors import UserError
from fm9g.settings import Group, setting


@dataclass(frozen=True)
class ChatSettings(Group):
    """What is learned of conversations (`format: chat`): every answer with its end token, where nothing is said."""

    title: ClassVar[str] = "Conversations"
    chinese_title: ClassVar[str] = "对话"

    train_on_prompt: bool = setting(
        False,
        "learn all of a conversation, questions and markup too",
        "学习对话的全部内容，包括问题与标记",
    )
    mask_history: bool = setting(
        False,
        "learn the last answer of a conversation alone",
        "只学习对话的最后一个回答",
    )

    def check(self) -> None:
        """All and a part cannot both be learned."""
        if self.train_on_prompt and self.mask_history:
            raise UserError("train_on_prompt learns everything, mask_history the last answer alone: set one of them")
