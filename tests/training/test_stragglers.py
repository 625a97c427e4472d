"""The rank that others wait for is named."""

import re

from tests.support.apps import start_program
from tests.support.outputs import Output
from tests.support.ranks import finish
from tests.support.runs_here import APP

SLOW = """
import runpy, time
from fm9g import runtime
from fm9g.objectives.language_model import LanguageModel
from fm9g.training import stragglers

stragglers.EVERY = 3
cost = LanguageModel.cost

def slow(objective, strip, context):
    time.sleep(0.4 if runtime.rank() == 1 else 0)
    return cost(objective, strip, context)

LanguageModel.cost = slow
runpy.run_path("{app}/pretrain.py", run_name="__main__")
"""


def test_a_slow_rank_is_named_and_measured(place, tmp_path):
    program = tmp_path / "slow.py"
    program.write_text(SLOW.format(app=APP))
    words = place.words(tmp_path / "out", n_gpus=2, grad_accum=1, train_iters=4)
    ended = finish(start_program(program, words, tmp_path), 100)
    assert ended.returncode == 0, ended.output
    assert re.search(
        r"warning: ranks: a step takes .* the most on rank 1 \(.* s more than others: they wait", ended.output
    )
    ranks = [line["ranks"] for line in Output(tmp_path / "out").metrics()]
    assert [bool(found) for found in ranks] == [False, False, True, False]
    assert ranks[2]["slowest"] == 1
    assert ranks[2]["most"] > 0.4
    assert ranks[2]["median"] < ranks[2]["most"]
