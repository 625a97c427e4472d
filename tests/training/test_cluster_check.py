"""check_cluster: pairs of nodes in rounds, and what is said of them."""

import itertools
import re

import pytest

from fm9g.training.cluster_check import Speed, _rounds, _slow
from tests.support.apps import start_app
from tests.support.ranks import finish, free_port


@pytest.mark.parametrize("count", range(1, 10))
def test_every_pair_meets_once_and_no_node_twice_in_a_round(count):
    rounds = list(_rounds(count))
    assert sorted(pair for pairs in rounds for pair in pairs) == list(itertools.combinations(range(count), 2))
    for pairs in rounds:
        nodes = [node for pair in pairs for node in pair]
        assert len(nodes) == len(set(nodes))


def test_a_node_that_is_slow_with_everyone_is_named():
    found = {pair: Speed(9.0, 9.0) for pair in itertools.combinations(range(5), 2)}
    assert _slow(found) == ""
    found = {pair: Speed(1.0, 1.0) if 3 in pair else speed for pair, speed in found.items()}
    assert _slow(found) == "node(s) 3 are slower than the others with every partner"
    found = {pair: Speed(1.0, 1.0) if pair == (0, 1) else Speed(9.0, 9.0) for pair in found}
    assert _slow(found) == ""  # both are fast with others


def test_two_nodes_are_measured(place, tmp_path):
    shared = {"NNODES": "2", "MASTER_ENDPOINT": "127.0.0.1", "MASTER_PORT": str(free_port()), "GPUS_PER_NODE": "1"}
    words = place.words(tmp_path / "out", n_gpus=None, check_cluster=1)
    nodes = [start_app(words, tmp_path, {**shared, "RANK": str(node)}) for node in (0, 1)]
    zero, one = [finish(node, 120) for node in nodes]
    assert (zero.returncode, one.returncode) == (0, 0), zero.output + one.output
    for row in ("0, 1", "all"):
        (speeds,) = re.findall(rf"^ +{row} +([\d.]+) +([\d.]+)$", zero.output, re.MULTILINE)
        assert all(float(speed) > 0 for speed in speeds)
    assert re.search(r"node 1: \S+, 1 rank\(s\), its clock [+-]0\.\d+ s to node 0's", zero.output)
