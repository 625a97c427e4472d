"""What a run reports of each iteration."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm9g.display import columns
from fm9g.errors import UserError
from fm9g.training.metrics import Evaluated, Metrics, MetricsWriter, drop_later_lines, readable_line, readable_time
from fm9g.training.throughput import peak_flops
from tests.support.outputs import Output

KEYS = [
    *("iteration", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "step_seconds", "data_seconds"),
    *("memory_bytes", "task_loss", "task_tokens", "task_documents", "task_epochs", "loss_scale"),
    *("skipped", "bad_steps", "ranks", "seen", "eval_loss", "eval_perplexity", "eval_task_loss", "eval_seen"),
]


def metrics(iteration=3, **changes):
    values = {
        "iteration": iteration,
        "loss": 2.5,
        "lr": 1e-3,
        "grad_norm": 0.75,
        "tokens": 1000 * iteration,
        "tokens_per_second": 123456.7,
        "mfu": 0.41,
        "step_seconds": 0.5,
        "data_seconds": 0.05,
        "memory_bytes": 2_000_000_000,
        "task_loss": {"prose": 2.25, "詩": 2.75},
        "task_tokens": {"prose": 700, "詩": 300},
        "task_documents": {"prose": 70, "詩": 3},
        "task_epochs": {"prose": 1.5, "詩": 0.25},
        "loss_scale": 1.0,
    }
    return Metrics(**{**values, **changes})


def write(tmp_path, *items, first=1, all_tasks=False):
    logs = tmp_path / "checkpoints/logs/u"
    logs.mkdir(parents=True, exist_ok=True)
    writer = MetricsWriter(logs, tmp_path / "tensorboard", first, all_tasks)
    for item in items:
        writer.write(item)
    writer.close()
    return Output(tmp_path)


def test_a_line_of_metrics_jsonl_has_the_documented_keys(tmp_path):
    (line,) = write(tmp_path, metrics()).metrics()
    assert list(line) == KEYS
    assert line["task_loss"] == {"prose": 2.25, "詩": 2.75}


def test_losses_keep_every_bit(tmp_path):
    (line,) = write(tmp_path, metrics(loss=1 / 3, grad_norm=2**-40 + 1)).metrics()
    assert (line["loss"], line["grad_norm"]) == (1 / 3, 2**-40 + 1)


def test_every_line_is_on_the_disk_at_once(tmp_path):
    writer = MetricsWriter(tmp_path, tmp_path / "board", 1, False)
    writer.write(metrics())
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
    writer.close()


def test_a_resume_cuts_later_lines_and_continues(tmp_path):
    write(tmp_path, *(metrics(i) for i in range(1, 8)))
    output = write(tmp_path, metrics(6, loss=9.0), metrics(7), first=6)
    assert [line["iteration"] for line in output.metrics()] == [1, 2, 3, 4, 5, 6, 7]
    assert output.losses()[5] == 9.0


@pytest.mark.parametrize("half", [b'{"itera', '{"task_loss": {"月'.encode()[:-1]])
def test_a_half_written_last_line_is_cut(tmp_path, half):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 1}\n{"iteration": 2}\n' + half)
    drop_later_lines(path, 10)
    assert path.read_text() == '{"iteration": 1}\n{"iteration": 2}\n'


@pytest.mark.parametrize("line", [b"\xff", b"[]", b"{}", b"3", b'{"iteration": null}', b"no JSON"])
def test_a_line_that_is_none_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl.*: move"):
        drop_later_lines(path, 1)


def test_an_evaluation_that_comes_late_is_in_the_line_of_its_iteration(tmp_path):
    (tmp_path / "checkpoints/logs/u").mkdir(parents=True)
    writer = MetricsWriter(tmp_path / "checkpoints/logs/u", tmp_path / "tensorboard/u", 1, False)
    late = metrics(2, task_loss={"line\u2028": 1.0})
    for one in (metrics(1), late):
        writer.write(one)
    writer.write_late(late, Evaluated(1.5, {"prose": 1.5}, {}, 10, 0, 0.1, True))
    writer.write(metrics(3))
    writer.close()
    lines = Output(tmp_path).metrics()
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert [line["eval_loss"] for line in lines] == [None, 1.5, None]
    assert Output(tmp_path).events()["Loss/eval"] == [(2, 1.5)]


def test_what_is_cut_is_kept_beside(tmp_path):
    write(tmp_path, *(metrics(i) for i in range(1, 5)))
    for number in (1, 2):
        output = write(tmp_path, metrics(3, loss=float(number)), metrics(4), first=3)
        kept = output.metrics_file.with_name(f"metrics.superseded-{number}.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in kept] == [3, 4]
    assert json.loads(kept[0])["loss"] == 1.0


def test_a_task_may_have_any_name(tmp_path):
    name = "line\u2028separator \x85"
    for _ in range(2):
        output = write(tmp_path, metrics(1), metrics(2, task_loss={name: 1.0}), first=1)
    assert output.metrics()[1]["task_loss"] == {name: 1.0}


def test_cutting_a_file_that_is_not_there_makes_none(tmp_path):
    drop_later_lines(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_holds_loss_rate_speed_and_tokens(tmp_path):
    events = write(tmp_path, metrics(1), metrics(2, loss=1.5)).events()
    assert events["Loss/train"] == [(1, 2.5), (2, 1.5)]
    assert {"Optimizer/lr", "Optimizer/grad_norm", "Speed/tokens_per_second", "Speed/mfu", "Data/tokens"} <= set(events)
    assert not any("task" in tag for tag in events)


def test_all_tasks_are_written_when_asked_for(tmp_path):
    events = write(tmp_path, metrics(1), all_tasks=True).events()
    assert events["Loss/task/prose"] == [(1, 2.25)]
    assert events["Data/task_tokens/prose"] == [(1, 700.0)]
    assert events["Data/task_documents/prose"] == [(1, 70.0)]
    assert events["Data/task_epochs/prose"] == [(1, 1.5)]


def test_a_step_without_tokens_leaves_a_gap_in_the_curve(tmp_path):
    output = write(tmp_path, metrics(1, loss=None, grad_norm=0.0, task_loss={}))
    assert output.losses() == [None]
    assert "Loss/train" not in output.events()


def test_the_summary_of_parameters_is_written(tmp_path):
    writer = MetricsWriter(tmp_path, tmp_path / "tensorboard", 1, False)
    item = {"name": "a", "std": 1.0, "mean": 2.0, "max": 3.0, "min": 4.0, "grad_std": 5.0, "grad_mean": 6.0}
    writer.write_summary([item], 10)
    writer.close()
    events = Output(tmp_path).events()
    assert events["Parameters/a/max"] == [(10, 3.0)]
    assert events["Parameters/a/grad_std"] == [(10, 5.0)]


def test_the_line_for_people():
    line = readable_line(metrics(), 10, 3723)
    assert line == (
        "iter 3/10 | loss 2.5000 | lr 1.00e-03 | grad norm 0.750 | 123,457 tok/s | eta 1:02:03 | mfu 41% | mem 2.0 GB "
        "| data 10%"
    )
    on_a_cpu = readable_line(metrics(mfu=None, data_seconds=0.02), 10, 3723)
    assert on_a_cpu == line.replace("mfu 41% | ", "").replace("data 10%", "prose 2.250, …")
    assert columns(on_a_cpu) <= 120
    told = [readable_line(metrics(mfu=None, data_seconds=0.02), 10, 3723, number) for number in range(2)]
    assert told[0] == on_a_cpu
    assert told[1] == on_a_cpu.replace("prose 2.250, …", told[1].split(" | ")[-1])
    assert told[1].endswith(", …")
    assert "prose" not in told[1]


WORDS = st.text("az 詩月\u0301·", min_size=1, max_size=40)
LARGE = st.floats(0, 1e30, allow_nan=False)


@given(
    *(st.integers(1, 10**7), LARGE | st.none(), LARGE | st.none(), st.floats(0, 1e9), st.floats(0, 1e9)),
    *(st.sampled_from([None, 0.4, 1.2]), st.sampled_from([1.0, 65536.0, 2.0**40]), st.dictionaries(WORDS, LARGE)),
)
def test_a_line_is_at_most_120_columns_wide(iteration, loss, norm, speed, eta, mfu, scale, tasks):
    changes = {"loss": loss, "grad_norm": norm, "tokens_per_second": speed, "mfu": mfu, "loss_scale": scale}
    line = readable_line(
        metrics(iteration, **changes, memory_bytes=10**12, task_loss=tasks, task_tokens=dict.fromkeys(tasks, 1)),
        10**7,
        eta,
    )
    assert columns(line) <= 120
    assert f"iter {iteration}/10000000" in line
    assert "tok/s" in line or eta > 1e7


def test_the_last_task_needs_no_room_for_an_ellipsis():
    alone = readable_line(metrics(mfu=None, data_seconds=0, task_loss={}), 10, 0)
    for length, shown in ((0, True), (1, False)):
        long = "b" * (120 - len(alone) - len(" | a 1.000,  2.000") + length)
        line = readable_line(metrics(mfu=None, data_seconds=0, task_loss={"a": 1.0, long: 2.0}), 10, 0)
        assert line.endswith(f"| a 1.000, {long} 2.000" if shown else "| a 1.000, …")


def test_all_tasks_that_fit_are_listed():
    tasks = {"a": 1.0, "b": 2.0}
    assert readable_line(metrics(mfu=None, data_seconds=0, task_loss=tasks), 10, 0).endswith("| a 1.000, b 2.000")


def test_a_cpu_has_no_mfu(tmp_path):
    assert peak_flops("float32") is None
    output = write(tmp_path, metrics(mfu=None))
    assert output.metrics()[0]["mfu"] is None
    assert "Speed/mfu" not in output.events()


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"loss": None}, "no tokens"),
        ({"grad_norm": None, "skipped": "overflow"}, r"skipped \(overflow\)"),
        ({"loss": None, "grad_norm": None, "skipped": "skip_iters"}, r"skipped \(skip_iters\)"),
        ({"loss_scale": 65536.0}, "scale 65536"),
    ],
)
def test_what_is_unusual_is_shown(changes, shown):
    assert re.search(rf"\| {shown} \|", readable_line(metrics(**changes), 10, 0))


def test_one_task_is_not_listed():
    assert "prose" not in readable_line(metrics(task_loss={"prose": 1.0}, task_tokens={"prose": 5}), 10, 0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3600, "1:00:00"), (180_000, "2d 2:00:00")]
)
def test_readable_times(seconds, text):
    assert readable_time(seconds) == text


def test_lines_are_plain_json(tmp_path):
    output = write(tmp_path, metrics())
    assert json.loads(output.metrics_file.read_text()) == output.metrics()[0]


def test_what_is_not_finite_is_null_and_a_gap_in_the_curve(tmp_path):
    nan, inf = float("nan"), float("inf")
    output = write(tmp_path, metrics(1, loss=nan, grad_norm=inf, task_loss={"prose": -inf, "詩": 1.0}), all_tasks=True)
    line = json.loads(output.metrics_file.read_text(), parse_constant=pytest.fail)
    assert (line["loss"], line["grad_norm"], line["task_loss"]) == (None, None, {"prose": None, "詩": 1.0})
    assert {"Loss/train", "Optimizer/grad_norm", "Loss/task/prose"}.isdisjoint(output.events())
    assert output.events()["Loss/task/詩"] == [(1, 1.0)]
