"""What a run takes: memory of the device, and room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from fm9g.model.config import ModelConfig
from fm9g.model.parameters import count, parameters
from fm9g.training.settings import Settings
from fm9g.training.start_check import trained_beside

_BYTES = {"bf16": 2, "fp16": 2, "float32": 4}


def memory_per_rank(config: ModelConfig, settings: Settings, ranks: int) -> dict[str, float]:
    """Estimated bytes on the device by use, with ZeRO-3 over `ranks`.

    Activations follow Korthikanti et al. (https://arxiv.org/abs/2205.05198, section 4) with attention
    that stores no scores: about 34 · dim_model bytes a token and layer in half precision. Of a tensor-parallel group
    each rank has its part of them, but for the inputs of attention and feed-forward, of which it has all.
    """
    width = _BYTES[config.dtype]
    table = parameters(config)
    adapters = trained_beside(settings, config)
    trained = count(adapters) if settings.lora else count(table)
    held, of_blocks = count(table), count(table, without=("embedding", "head"))
    held += count(adapter for adapter in adapters if adapter.role == "adapter")
    embedding, layer = config.vocab_size * config.dim_model, of_blocks / config.num_layers
    tokens = settings.batch_size * settings.max_length
    optimizer = 0.0 if settings.offload else (8 if config.dtype == "float32" else 12) * trained / ranks
    tp_size = settings.tp_size
    full_layer = tokens * config.dim_model * width * (17 if tp_size == 1 else 15 / tp_size + 2)
    full_layer += tokens * width * _values_of_experts(config)
    checkpointed = settings.use_checkpoint
    activations = (
        full_layer + tokens / tp_size * config.dim_model * width * config.num_layers
        if checkpointed
        else (full_layer * config.num_layers)
    )
    return {
        "parameters": width * held / ranks,
        "gradients": width * trained / ranks,
        "optimizer state (on the host with offload)": optimizer,
        "gathered blocks, embedding and head": width
        * (4 * layer / tp_size + (7 if config.head_norm else 4) * embedding)
        + 4 * embedding,
        "activations": activations,
    }


def _values_of_experts(config: ModelConfig) -> int:
    """What a token and layer store beside 17 · dim_model, which has a feed-forward layer of usual width in it: of each
    expert that a token has, what goes in and out, the outputs of w_0 and w_1, and what is made of these."""
    return config.experts_per_token * (2 * config.dim_model + 4 * config.dim_expert) + 4 * config.dim_shared_expert


def memory_advice(config: ModelConfig, settings: Settings, ranks: int) -> str:
    """What to do where the memory of a device does not suffice."""
    estimate = memory_per_rank(config, settings, ranks)
    largest = max(estimate, key=lambda use: estimate[use])
    ways = [
        *([] if settings.use_checkpoint else ["use_checkpoint=1"]),
        *([] if settings.batch_size == 1 else ["a lower batch_size with a higher grad_accum"]),
        *([] if settings.offload else ["offload=1"]),
        "more ranks",
        *([] if config.num_experts else ["a higher tp_size"]),
        "a lower max_length",
    ]
    return (
        f"about {sum(estimate.values()) / 1e9:.3g} GB a rank are needed, most of it for {largest} "
        f"({estimate[largest] / 1e9:.3g} GB): try {', '.join(ways)}"
    )


def checkpoint_bytes(config: ModelConfig, settings: Settings) -> int:
    """About what a checkpoint takes on the disk: weights, and of what is trained AdamW's state."""
    width, table = _BYTES[config.dtype], parameters(config)
    saved = count(trained_beside(settings, config)) if settings.lora else count(table)
    return int(saved * (width + (8 if config.dtype == "float32" else 12)))


def about_checkpoints(config: ModelConfig, settings: Settings, folder: Path) -> str:
    """What a run's checkpoints take, and for how many there is room where its folder is or will be."""
    if not settings.save:
        return "none (save=0)"
    size = checkpoint_bytes(config, settings)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free, count = shutil.disk_usage(existing).free, -(-settings.train_iters // settings.save_iters)
    written = count if settings.kept is None else min(count, settings.kept + 2)  # the best, and the one being written
    said = f"about {size / 1e9:.3g} GB each; {existing} has {free / 1e9:.3g} GB free"
    if written * size <= free:
        return said
    room = f"room for {free // size} of the {written} that there will be at a time"
    if free < size:
        return f"{said}: {room}; none can be written: make room, or give another output_dir"
    return f"{said}: {room}; a keep_last that is lower, or a higher save_iters, needs less"
