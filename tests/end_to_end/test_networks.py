"""Several machines with a network between them: run_bmtrain.sh as a user starts it on each, and one that is cut off."""

import sys

import pytest

from tests.support.apps import SCRIPT, run_app
from tests.support.networks import network
from tests.support.outputs import Output
from tests.support.processes import wait_until
from tests.support.ranks import finish, start

PORT = "29571"


def start_on(machines, words, folder, **changes):
    """run_bmtrain.sh on each machine, the first of which is node 0."""
    shared = {"NNODES": str(len(machines)), "MASTER_ENDPOINT": machines[0].address, "MASTER_PORT": PORT}
    shared |= {"GPUS_PER_NODE": "1", "PYTHON": sys.executable, "OMP_WAIT_POLICY": "PASSIVE", **changes}
    return [
        start([*machine.command, "bash", str(SCRIPT), *words], {**shared, "RANK": str(node)}, folder)
        for node, machine in enumerate(machines)
    ]


SOAKED = [
    (2, 0, 1, 1),
    (3, 0, 1, 1),
    (3, 2, 1, 1),
    (2, 1, 2, 2),
    (2, 0, 1, 2),
    (3, 1, 2, 2),
]  # tp 2 in a node and over two


@pytest.mark.parametrize(
    ("count", "victim", "ranks", "tp_size"),
    [(2, 1, 1, 1), *(pytest.param(*case, marks=pytest.mark.soak) for case in SOAKED)],
)
def test_a_machine_that_is_cut_off_ends_the_run_which_goes_on_by_the_same_command(
    place, tmp_path, count, victim, ranks, tp_size
):
    options = {"n_gpus": None, "grad_accum": 1, "save_iters": 5, "resume_ckpt": "latest", "tp_size": tp_size}
    output = Output(tmp_path / "out")
    with network(count) as machines:
        words = place.words(output.root, **options, train_iters=100_000)
        nodes = start_on(machines, words, tmp_path, FM9G_HEARTBEAT_SECONDS="6", GPUS_PER_NODE=str(ranks))
        wait_until(lambda: output.steps() or any(node.poll() is not None for node in nodes), "a checkpoint", 120)
        machines[victim].cut_off()
        ended = [finish(node, 90) for node in nodes]
        assert [result.returncode for result in ended] == [1] * count, "".join(result.output for result in ended)
        last = [result.output.splitlines()[-1] for result in ended]
        lost = [node for node in range(1, count) if victim in (0, node)]  # those that node 0 does not hear
        away = [rank for node in lost for rank in range(node * ranks, (node + 1) * ranks)]
        for node, said in enumerate(last):
            if node in lost:
                assert "no answer from the rendezvous store" in said, last
            else:
                assert any(f"rank {other} (process " in said for other in away), last
                assert "died or stopped answering" in said, last
    saved = output.latest()
    again = run_app(place.words(output.root, **{**options, "n_gpus": count * ranks}, train_iters=saved + 2), tmp_path)
    assert again.returncode == 0, again.output
    assert f"at step {saved}" in again.output
