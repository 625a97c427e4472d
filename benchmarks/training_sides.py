"""The two sides of the training benchmarks: a step of ours, and of a plain transformers loop over the same shape."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Step = Callable[[], None]
ADAM: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1}


def ours(shape: dict[str, Any], lengths: list[int], dtype: str, recompute: bool = False) -> Step:
    """Decoder, BMTrain's optimizer manager and clipping over documents of these lengths."""
    import torch

    from fm9g import runtime
    from fm9g.model.config import ModelConfig
    from fm9g.model.decoder import Decoder

    runtime.initialize(seed=1)
    places = sum(lengths)
    model = Decoder(ModelConfig(**shape, dtype=dtype, max_length=places), use_checkpoint=recompute)
    runtime.bmt.init_parameters(model)
    print(f"ours: {model.encoder.kernel_name} attention", file=sys.stderr)
    optimizer = runtime.bmt.optim.AdamOptimizer(model.parameters(), **ADAM)
    manager = runtime.bmt.optim.OptimManager(grad_scale=1)
    manager.add_optimizer(optimizer)
    context = model.context(lengths)
    tokens = torch.randint(0, shape["vocab_size"], (places + 1,), device=runtime.device())

    def step() -> None:
        manager.zero_grad()
        total, _ = model.loss(tokens[:-1], tokens[1:], context)
        manager.backward(total / places)
        manager.clip_grad_norm(optimizer.param_groups, 1.0)
        manager.step()

    return step


def transformers_loop(
    shape: dict[str, Any], rows: int, length: int, weights: str, autocast: bool = False, recompute: bool = False
) -> Step:
    """LlamaForCausalLM, torch.optim.AdamW (fused on a GPU) and clipping; rows are not cut at documents.

    `weights` is what weights and moments are kept in; with `autocast` they are computed with in bf16.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import is_flash_attn_2_available

    on_cuda = torch.cuda.is_available()
    torch.manual_seed(1)
    torch.set_default_dtype(getattr(torch, weights))
    with torch.device("cuda" if on_cuda else "cpu"):
        model = LlamaForCausalLM(
            LlamaConfig(  # type: ignore[call-arg]
                vocab_size=shape["vocab_size"],
                hidden_size=shape["dim_model"],
                num_attention_heads=shape["num_heads"],
                num_hidden_layers=shape["num_layers"],
                intermediate_size=shape["dim_ff"],
                tie_word_embeddings=shape.get("tie_lm_head", False),
                max_position_embeddings=length,
                attn_implementation="flash_attention_2" if on_cuda and is_flash_attn_2_available() else "sdpa",
                use_cache=False,
            )
        )
        tokens = torch.randint(0, shape["vocab_size"], (rows, length))
    torch.set_default_dtype(torch.float32)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=on_cuda, **ADAM)
    print(f"transformers: {model.config._attn_implementation} attention", file=sys.stderr)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=autocast):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def wait_for_device() -> None:
    """Until the GPU, if there is one, has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_per_step(step: Step, steps: int, warm_up: int = 1) -> float:
    """The fastest of `steps` after some to warm up: other work on the machine only ever adds."""
    for _ in range(warm_up):
        step()
    wait_for_device()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        wait_for_device()
        times.append(time.perf_counter() - started)
    return min(times)


def in_own_process(script: str, arguments: argparse.Namespace, **changes: Any) -> Any:
    """What a script prints last, as JSON, when it is run with these arguments and changes."""
    given = {**vars(arguments), **changes}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if value is not None]
    result = subprocess.run([sys.executable, script, *words], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(words)}: failed with exit status {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])
