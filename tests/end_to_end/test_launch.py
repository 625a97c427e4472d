"""run_bmtrain.sh: where it can be started from, its table, its exit status, several nodes, and its ranks' end."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fm9g.commands import train
from fm9g.errors import UserError
from tests.support.apps import SCRIPT, run_app, start_app
from tests.support.outputs import Output
from tests.support.processes import descendants, is_alive, wait_until
from tests.support.ranks import finish, free_port
from tests.support.runs_here import APP, train_here


@pytest.fixture
def own_app(tmp_path):
    """A copy of the app, as in a user's checkout, to edit the table in; its folder holds a space."""
    folder = tmp_path / "my checkout/apps/fm9g_7b"
    folder.mkdir(parents=True)
    for name in ("run_bmtrain.sh", "start.sh", "launch.py", "pretrain.py"):
        shutil.copy(APP / name, folder)
    return folder


def edit_table(app, **values):
    script = app / "run_bmtrain.sh"
    lines = []
    for line in script.read_text().splitlines(keepends=True):
        lines.append(line)
        if line.startswith("declare -A args"):
            lines += [f'args["{key}"]="{value}"\n' for key, value in values.items()]
    text = "".join(line for line in lines if not any(f'args["{key}"]=""' in line for key in values))
    script.write_text(text)
    return script


def test_a_run_from_another_folder_with_settings_in_the_table(place, own_app, tmp_path):
    """The table, empty values in it, the train config over it, the command line over that; data/ beside the script."""
    script = edit_table(own_app, train_iters=3, batch_size=2, grad_accum=7)
    (place.root / "train_configs").mkdir(exist_ok=True)
    config = place.write_model("launched")
    (place.root / "train_configs/launched.json").write_text('{"grad_accum": 3, "clip_grad": 0.5}')
    words = place.words(
        tmp_path, **{"config": config, "output_dir": None, "model_unique": "mine", "clip_grad": 0.25},
        train_iters=None, batch_size=None, grad_accum=None,
    )  # fmt: skip
    result = finish(start_app(words, tmp_path, script=script), 120)
    assert result.returncode == 0, result.output
    settings = Output(own_app / "data", "mine").state(3)["settings"]
    found = [settings[name] for name in ("train_iters", "batch_size", "grad_accum", "clip_grad", "drop_rate")]
    assert found == [3, 2, 3, 0.25, 0.5]
    assert Output(own_app / "data", "mine").metrics()[-1]["iteration"] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batchsize", "2"], "error: command line: unknown setting 'batchsize' (did you mean 'batch_size'?)"),
        (["--lr", "fast"], "error: command line: lr must be a number, not 'fast'"),
        (["--tokenizer_path", "nowhere"], "error: tokenizer_path: nowhere: no such file or folder"),
    ],
)
def test_a_bad_setting_is_one_line_and_a_status(place, tmp_path, words, says):
    result = run_app([*place.words(tmp_path / "out"), *words], tmp_path)
    assert result.returncode == 1
    assert len(result.output.splitlines()) == 1, result.output
    assert result.output.startswith(says)
    assert not (tmp_path / "out").exists()


def test_gpus_per_node_is_n_gpus(place, tmp_path):
    words = [*place.words(tmp_path, n_gpus=None), "--dry_run"]
    result = run_app(words, tmp_path, {"GPUS_PER_NODE": "3", "NNODES": "2"})
    assert result.returncode == 0, result.output
    assert "(6 ranks x batch_size 1 x grad_accum 2)" in result.output


def test_help_lists_the_settings_and_starts_nothing(tmp_path):
    result = run_app(["--help"], tmp_path)
    assert result.returncode == 0
    assert "--resume_no_optimze  [0]" in result.output


# several nodes


@pytest.fixture
def rendezvous(monkeypatch):
    """The launcher's arguments for torchrun, in an environment."""

    def find(nodes, **environment):
        for name in ("MASTER_ENDPOINT", "MASTER_ADDR", "MASTER_PORT", "RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return train.rendezvous(nodes, 4)

    return find


def test_one_node_needs_no_rendezvous(rendezvous):
    assert rendezvous(1, RANK="5", MASTER_PORT="1") == ["--standalone"]


def test_a_node_takes_the_place_that_the_environment_gives_it(rendezvous, monkeypatch):
    met = []
    monkeypatch.setattr(train, "meet", lambda *arguments: met.append(arguments))
    place = rendezvous(3, MASTER_ENDPOINT="127.0.0.1", MASTER_PORT="4321", RANK="2")
    assert place[:4] == ["--nnodes=3", "--node_rank=2", "--master_addr=127.0.0.1", "--master_port=4321"]
    assert place[4:] == ["--rdzv_conf=timeout=600"]
    ((claim, *where),) = met
    assert (claim.node, claim.nodes, claim.ranks) == (2, 3, 4)
    assert where == ["127.0.0.1", 4321, 600.0]


def test_nodes_that_do_not_come_are_told_in_a_line(place, tmp_path):
    env = {"NNODES": "2", "RANK": "0", "MASTER_ENDPOINT": "127.0.0.1", "MASTER_PORT": str(free_port())}
    result = run_app(place.words(tmp_path), tmp_path, {**env, "FM9G_RENDEZVOUS_SECONDS": "1"})
    assert result.returncode == 1
    assert "for 1 more node(s), at most 1 s" in result.output
    assert "error: node(s) 1 of 2 did not come to 127.0.0.1:" in result.output.splitlines()[-1]
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RANK": "1"}, "NNODES=2: set MASTER_ENDPOINT to the address of the node with RANK=0"),
        ({"MASTER_ENDPOINT": "10.0.0.1"}, "NNODES=2: set RANK to this node's number, 0 to 1"),
        ({"MASTER_ENDPOINT": "10.0.0.1", "RANK": "2"}, "NNODES=2: set RANK to this node's number, 0 to 1"),
        ({"MASTER_ENDPOINT": "10.0.0.1", "RANK": "one"}, "RANK='one' must be a whole number of at least 0"),
        ({"MASTER_ENDPOINT": "10.0.0.1", "RANK": "²"}, "RANK='²' must be a whole number of at least 0"),
        *(
            (
                {"MASTER_ENDPOINT": "10.0.0.1", "RANK": "0", "MASTER_PORT": port},
                f"MASTER_PORT='{port}' must be a whole number from 1 to 65535",
            )
            for port in ("x", "0", "70000", "-1", "²", "9" * 5000)
        ),
    ],
)
def test_what_is_missing_for_several_nodes_is_named(rendezvous, environment, says):
    with pytest.raises(UserError) as error:
        rendezvous(2, **environment)
    assert str(error.value) == says


def test_a_port_in_use_is_named_before_anything_starts(rendezvous):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"MASTER_PORT={port} cannot be used: Address already in use; set another"):
            rendezvous(2, MASTER_ENDPOINT="127.0.0.1", RANK="0", MASTER_PORT=str(port))


def test_a_missing_address_is_one_line_for_the_user(place, tmp_path):
    result = run_app(place.words(tmp_path / "out"), tmp_path, {"NNODES": "2", "RANK": "0"})
    assert result.returncode == 1
    assert result.output == "error: NNODES=2: set MASTER_ENDPOINT to the address of the node with RANK=0\n"


def test_two_nodes_train_like_one(place, single_rank, tmp_path):
    """Two launchers with a rank each, one with two ranks, and a single rank with twice the grad_accum."""
    options = {"grad_accum": 1, "train_iters": 6}
    environment = {"NNODES": "2", "MASTER_ENDPOINT": "127.0.0.1", "MASTER_PORT": str(free_port()), "GPUS_PER_NODE": "1"}
    words = place.words(tmp_path / "nodes", **options, n_gpus=None)
    nodes = [start_app(words, tmp_path, {**environment, "RANK": str(rank)}) for rank in (0, 1)]
    for result in [finish(node, 120) for node in nodes]:
        assert result.returncode == 0, result.output
    result = run_app(place.words(tmp_path / "one", **options, n_gpus=2), tmp_path)
    assert result.returncode == 0, result.output
    one, two = Output(tmp_path / "one"), Output(tmp_path / "nodes")
    assert two.learned() == one.learned()
    assert two.progress(6) == one.progress(6)
    alone = train_here(place, tmp_path / "alone", **{**options, "grad_accum": 2})
    assert alone.losses() == pytest.approx(one.losses(), rel=1e-5)
    assert alone.progress(6) == one.progress(6)


# how runs end


def ranks_of(process):
    """The processes of pretrain.py that a launcher has started."""
    return [
        pid for pid in descendants(process.pid) if "pretrain.py" in (Path("/proc") / str(pid) / "cmdline").read_text()
    ]


@pytest.mark.parametrize("moment", ["they have just been started", "they train"])
def test_ranks_end_after_their_launcher_is_killed(place, tmp_path, moment):
    output = Output(tmp_path / "out")
    process = start_app(place.words(output.root, n_gpus=2, grad_accum=1, train_iters=100_000, save=False), tmp_path)
    reached: Callable[[], Any] = output.metrics if moment == "they train" else lambda: len(ranks_of(process)) == 2  # type: ignore[return-value]
    ranks = []
    try:
        wait_until(lambda: reached() or process.poll() is not None, moment, 120)
        ranks = ranks_of(process)
        assert len(ranks) == 2, process.poll()
        process.kill()
        process.wait(timeout=30)
        wait_until(lambda: not any(map(is_alive, ranks)), "the end of the ranks", 60)
    finally:
        for pid in filter(is_alive, [process.pid, *ranks]):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=30)


def test_a_rank_that_is_killed_is_named_in_a_line(place, tmp_path):
    output = Output(tmp_path / "out")
    process = start_app(place.words(output.root, n_gpus=2, grad_accum=1, train_iters=100_000, save=False), tmp_path)
    wait_until(lambda: output.metrics() or process.poll() is not None, "an iteration", 120)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    result = finish(process, 90)
    assert result.returncode == 1
    last = result.output.splitlines()[-1]
    alone, waited_for = (
        "rank [01] ended first, with signal SIGKILL",
        r".*rank (\d) .*\(rank \1 ended with signal SIGKILL\)",
    )
    ends = "; what it said stands above"
    assert re.fullmatch(f"the run failed: {waited_for}{ends}|the run failed: {alone}{ends}", last)
    assert "Traceback" not in result.output


def test_a_loader_process_that_is_killed_ends_the_run_in_a_line(place, tmp_path):
    """As the host does that runs out of memory; torch tells it from a signal handler, in whatever a rank is doing."""
    words = place.words(tmp_path, n_gpus=2, train_iters=100_000, dataloader_num_workers=1)
    process, output = start_app(words, tmp_path), Output(tmp_path)
    wait_until(lambda: output.metrics() or process.poll() is not None, "an iteration", 120)
    ranks = ranks_of(process)
    workers = [pid for rank in ranks for pid in descendants(rank)]
    os.kill(workers[0], signal.SIGKILL)
    result = finish(process, timeout=120)
    assert result.returncode == 1
    assert "Traceback" not in result.output
    assert re.search(rf"DataLoader worker \(pid(\(s\))? {workers[0]}\) ", result.output)  # torch says so in two ways
    assert "Resume the last checkpoint" in result.output


def test_a_second_run_of_the_same_name_is_refused_while_the_first_one_writes(place, single_rank, tmp_path):
    from fm9g.checkpoint.folder import RunFolder

    folder = RunFolder(tmp_path / "out", "u", "")
    folder.create()
    with folder.lock(), pytest.raises(UserError, match=rf"is being written by process {os.getpid()} on "):
        train_here(place, tmp_path / "out")


def test_the_script_is_what_users_start():
    assert SCRIPT.name == "run_bmtrain.sh"
    assert "args[" in SCRIPT.read_text()
