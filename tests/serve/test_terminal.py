"""A talk at the terminal: what of it is forgotten, and when."""

from __future__ import annotations

from typing import Any

import pytest

from fm9g.errors import UserError
from fm9g.serve.terminal import _prompt

pytestmark = pytest.mark.usefixtures("single_rank")


class Counting:
    """In place of a model: it takes 100 tokens, each a word of a prompt."""

    max_length = 100

    def chat_prompt(self, record: dict[str, Any]) -> list[int]:
        return [0] * sum(len(turn["content"].split()) for turn in record["messages"])

    def check_room(self, prompt: list[int]) -> None:
        if len(prompt) >= self.max_length:
            raise UserError("too long")


def talk(*lengths: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "w " * length} for length in lengths]


@pytest.mark.parametrize(("answer", "left"), [(10, 5), (20, 3), (1000, 3)])
def test_rounds_are_forgotten_until_there_is_room_for_an_answer(answer: int, left: int) -> None:
    """Of as many tokens as it may have, or a quarter of the model's."""
    turns = talk(20, 20, 20, 20, 8)
    assert len(_prompt(Counting(), turns, "", answer)) == sum(len(turn["content"].split()) for turn in turns)  # type: ignore[arg-type]
    assert len(turns) == left


def test_a_question_alone_may_leave_less() -> None:
    assert len(_prompt(Counting(), talk(99), "", 50)) == 99  # type: ignore[arg-type]
    with pytest.raises(UserError, match="too long"):
        _prompt(Counting(), talk(5, 5, 100), "", 50)  # type: ignore[arg-type]
