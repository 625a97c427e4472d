"""What a lane remembers, packed into one array."""

import numpy as np
import pytest

from fm9g.data.stream.lane_state import NONE, LaneState

STATE = LaneState(base=[5, 0, 7], tokens=[100, -20, -80], next_token=[NONE, 30, NONE], taken=[0, 0, 0b110], rows=9)


def test_a_state_comes_back_from_its_integers():
    packed = STATE.pack()
    assert (packed.dtype, packed.shape) == (np.int64, (LaneState.size(3),))
    assert LaneState.unpack(packed) == STATE


@pytest.mark.parametrize(("line", "last"), [(0, 4), (1, 0), (2, 9)])
def test_the_last_document_begun(line, last):
    assert STATE.begun(line) == last


def test_nothing_is_begun_at_first():
    assert LaneState([0], [0], [NONE], [0], 0).begun(0) == -1


def test_lines_keep_their_places_under_other_numbers():
    arranged = STATE.arranged(4, {0: 2, 3: 1}, keep_balance=True)
    assert arranged == LaneState([7, 0, 0, 0], [-80, 0, 0, -20], [NONE, NONE, NONE, 30], [0b110, 0, 0, 0], 9)
    anew = STATE.arranged(2, {0: 0, 1: 1}, keep_balance=False)
    assert anew == LaneState([5, 0], [0, 0], [NONE, 30], [0, 0], 0)
