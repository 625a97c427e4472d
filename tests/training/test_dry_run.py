"""The estimate of memory: docs/training.md's table, by hand."""

import dataclasses

import pytest

from fm9g.model.config import ModelConfig
from fm9g.training.memory import memory_advice, memory_per_rank
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


def test_of_experts_all_are_held_and_those_of_a_token_store_activations():
    config = dataclasses.replace(CONFIG, num_experts=6, experts_per_token=2, dim_expert=20, dim_shared_expert=12)
    found = list(memory_per_rank(config, SETTINGS, 4).values())
    block = BLOCK - 3 * 32 * 48 + 6 * 32 + 6 * 3 * 32 * 20 + 3 * 32 * 12 + 32
    held = 2 * EMBEDDING + 3 * block + 32
    assert found[:3] == pytest.approx([2 * held / 4, 2 * held / 4, 12 * held / 4])
    assert found[4] == 2 * PLACES * 3 * (17 * 32 + 2 * (2 * 32 + 4 * 20) + 4 * 12)
    assert "tp_size" not in memory_advice(config, SETTINGS, 4)
    assert "tp_size" in memory_advice(CONFIG, SETTINGS, 4)
