"""The collectives that BMTrain and the library call, on 2 and 4 ranks: see programs/collectives.py for each check."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fm9g.runtime.collectives import commInitRank, reduce_parts
from tests.support.ranks import Finished, assert_passed, names_of_checks, run_ranks

PROGRAM = Path(__file__).parent / "programs" / "collectives.py"


@pytest.fixture(scope="module", params=[2, 4], ids="{} ranks".format)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_ranks(PROGRAM, request.param, tmp_path_factory.mktemp("collectives"))


@pytest.mark.parametrize("check", names_of_checks(PROGRAM))
def test_on_ranks(check: str, result: Finished) -> None:
    assert_passed(result, check)


def test_all_ranks_end_in_order(result: Finished) -> None:
    assert result.returncode == 0, result.output


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_small_numbers_add_up_in_a_half_type(dtype: torch.dtype) -> None:
    """512 ranks of 0.25 make 128; a sum that is rounded at every step stops growing far below in bfloat16."""
    parts = torch.full((512, 2), 0.25, dtype=dtype)
    assert reduce_parts(parts, "sum").tolist() == [128.0, 128.0]


def test_a_rank_beyond_its_group_is_rejected() -> None:
    with pytest.raises(ValueError, match="rank 2 is not below the group's size 2"):
        commInitRank(b"name", 2, 2)
