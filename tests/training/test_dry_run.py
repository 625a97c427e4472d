"""The estimate of memory: docs/training.md's table, by hand."""

import dataclasses

import pytest

from fm9g.model.config import ModelConfig
from fm9g.training.dry_run import memory_per_rank
from fm9g.training.settings import Settings

# 100 * 32 of embedding and head each; a block 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32; a norm of 32
CONFIG = ModelConfig(100, 32, 2, 3, 48, dtype="bf16")
EMBEDDING, BLOCK = 3200, 8768
HELD = 2 * EMBEDDING + 3 * BLOCK + 32
SETTINGS = Settings(batch_size=2, max_length=64, offload=False, use_checkpoint=False)
PLACES = 2 * 64


def test_the_table_of_a_rank_of_four():
    found = list(memory_per_rank(CONFIG, SETTINGS, 4).values())
    gathered = 2 * (4 * (BLOCK + 32 / 3) + 4 * EMBEDDING) + 4 * EMBEDDING
    assert found == pytest.approx([2 * HELD / 4, 2 * HELD / 4, 12 * HELD / 4, gathered, 17 * 2 * PLACES * 32 * 3])


def test_offload_float32_and_recomputation_change_their_rows_alone():
    before = memory_per_rank(CONFIG, SETTINGS, 1)
    keys = list(before)

    def changed(config=CONFIG, **settings):
        found = memory_per_rank(config, dataclasses.replace(SETTINGS, **settings), 1)
        return {key: found[key] for key in keys if found[key] != before[key]}

    assert changed(offload=True) == {keys[2]: 0.0}
    assert changed(use_checkpoint=True) == {keys[4]: 17 * 2 * PLACES * 32 + 3 * 2 * PLACES * 32}
    assert changed(dataclasses.replace(CONFIG, dtype="float32"))[keys[2]] == 8 * HELD
