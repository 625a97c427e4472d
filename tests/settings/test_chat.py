"""Conversations: defaults, what is refused, and what each setting does."""

import json

import pytest

from fm9g.data.chat.settings import ChatSettings
from tests.settings.helpers import defaults, refused, sees
from tests.support.chats import conversation
from tests.support.places import index
from tests.support.runs_here import train_here

pytestmark = pytest.mark.usefixtures("single_rank")
DEFAULTS = {"train_on_prompt": False, "mask_history": False}


def test_defaults():
    assert defaults(ChatSettings) == DEFAULTS


@pytest.fixture
def learned(place, tmp_path):
    """The share of a mixture's tokens that a run learns, as only_run_dataloader says it."""
    entry = {
        "path": str(index(tmp_path / "chat", [conversation(2, i) for i in range(8)])),
        "abs_weight": 1,
        "task_name": "chat",
        "format": "chat",
    }
    (tmp_path / "chat.json").write_text(json.dumps([{**entry, "template": "belle"}]))

    def share(**changes):
        options = {"dataset_config": tmp_path / "chat.json", "only_run_dataloader": 1}
        options |= {"train_iters": 20, "max_length": 128}
        log = train_here(place, tmp_path / f"out{len(list(tmp_path.iterdir()))}", **options, **changes).log
        return float(log.rpartition(" epochs, ")[2].partition("% learned")[0])

    return share


@sees("train_on_prompt")
def test_all_of_a_conversation_is_learned(learned):
    assert learned(train_on_prompt=1) > 95 > learned() > 20


@sees("mask_history")
def test_the_last_answer_alone_is_learned(learned):
    last, every = learned(mask_history=1), learned()
    assert every / 4 < last < every * 3 / 4


def test_both_are_refused():
    assert "set one of them" in refused("--train_on_prompt", "1", "--mask_history", "1")
