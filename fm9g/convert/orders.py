"""Orders of rows in tensors of others, as Layout has them: theirs[i] is ours[order[i]]."""

from __future__ import annotations

import numpy as np

from fm9g.model.config import ModelConfig


def interleaved(config: ModelConfig, heads: int) -> np.ndarray:
    """[heads * dim_head]: of each head's rotated rows, ours turn i with i + rotated / 2, theirs 2i with 2i + 1."""
    pairs = np.arange(config.rotated).reshape(2, -1).T.reshape(-1)
    head = np.concatenate([pairs, np.arange(config.rotated, config.dim_head)])
    return (np.arange(heads)[:, None] * config.dim_head + head).reshape(-1)


def interleaved_queries(config: ModelConfig) -> np.ndarray:
    """Of a projection of queries."""
    return interleaved(config, config.num_heads)


def interleaved_keys(config: ModelConfig) -> np.ndarray:
    """Of a projection of keys."""
    return interleaved(config, config.num_kv_heads)


def interleaved_in_one(config: ModelConfig) -> np.ndarray:
    """Of queries, keys and values one after another in one, the former two as in `interleaved`."""
    queries, keys = interleaved_queries(config), interleaved_keys(config)
    values = np.arange(len(keys))
    return np.concatenate([queries, len(queries) + keys, len(queries) + len(keys) + values])


def head_by_head(config: ModelConfig) -> np.ndarray:
    """Of queries, keys and values in one: each group's heads of queries, then its keys and its values."""
    queries, keys = config.num_heads * config.dim_head, config.num_kv_heads * config.dim_head
    ours = np.arange(queries + 2 * keys)
    parts = (part.reshape(config.num_kv_heads, -1) for part in np.split(ours, [queries, queries + keys]))
    return np.concatenate(list(parts), axis=1).reshape(-1)
