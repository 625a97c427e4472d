"""Data that does not come ends a run, whichever process is to bring it."""

import pytest

from tests.support.apps import run_app


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.soak), 1])
def test_a_record_that_is_never_read_ends_the_run(place, tmp_path, workers):
    program = tmp_path / "hanging.py"
    program.write_text(
        "import time\n\n"
        "def transform(data, num_sample, r):\n"
        "    if data['output'].startswith('37 '):\n"
        "        time.sleep(600)\n"
        "    return data\n"
    )
    entry = {"path": str(place.root / "prose"), "task_name": "prose", "abs_weight": 1, "transforms": str(program)}
    words = place.words(
        tmp_path / "out",
        dataset_config=place.write_mixture("hanging", [entry]),
        train_iters=100,
        step_timeout=4,
        dataloader_num_workers=workers,
    )
    ended = run_app(words, tmp_path)
    assert ended.returncode == 1, ended.output
    assert "came no further: reading the data of step" in ended.output
    assert ended.output.splitlines()[-1].startswith("the run failed: came no further: reading the data of step")
