#!/usr/bin/env python
"""Finetuning speed on the CPU against transformers, with PEFT for LoRA: answers learned per second of the processor.

    python benchmarks/finetune_cpu.py [--documents 40] [--rounds 3] [--data FILE --tokenizer FOLDER]

Conversations of one question and one answer are learned once: ours packed into rows without padding, the peer's in
batches of 8 padded to their longest, which are taken at random, or of conversations of like length. A row has as many
tokens as 8 conversations on average, so that all sides take the same number of steps. Conversations are as long as
those of --data (any form of docs/finetune.md) are with --tokenizer, or as instructions usually are (drawn): others in
each round, the same for all sides. A round runs a process of each side, in turn; the table gives tokens of answers per
second of the processor, over all rounds, and the most memory that a process had.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_sides import ADAM, in_own_process

SHAPE = {"vocab_size": 8192, "dim_model": 768, "num_heads": 12, "num_layers": 6, "dim_ff": 2048, "tie_lm_head": True}
LORA = {"r": 16, "alpha": 32}
THEIRS = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
BATCH, LONGEST = 8, 1024
SIDES = ("ours", "padded at random", "padded by length")

Document = tuple[int, int]
"""The tokens of a question, and of its answer."""
Learn = Callable[[int | None], None]
"""Learns the first so many of its batches, or all."""


def documents(count: int, number: int, data: str | None, tokenizer: str | None) -> list[Document]:
    """`count` questions and answers as long as some of `data`, or with the spread of the usual instruction sets: a
    median of 25 and 60 tokens, long tails. `number`: of the round."""
    r = random.Random(number)
    if data and tokenizer:
        return r.sample(lengths(data, tokenizer), count)
    return [
        (min(400, round(r.lognormvariate(3.2, 0.7)) + 2), min(600, round(r.lognormvariate(4.1, 0.9)) + 1))
        for _ in range(count)
    ]


def lengths(data: str, tokenizer: str) -> list[Document]:
    """The conversations of a file in the alpaca template: tokens that are not learned, and those that are, where they
    fit into a row."""
    from fm9g.data.chat.render import Learned, Renderer
    from fm9g.data.prepare.readers import read_source
    from fm9g.data.tokens.tokenizer import load_tokenizer
    from tests.support.chats import tokens_and_ranges

    renderer = Renderer("alpaca", load_tokenizer(tokenizer), Learned())
    found = []
    for record in read_source(data, (), None):
        tokens, ranges = tokens_and_ranges(renderer, record)
        answer = sum(map(len, ranges))
        if len(tokens) <= LONGEST:
            found.append((len(tokens) - answer, answer))
    return found


def rows_of(found: list[Document]) -> list[list[Document]]:
    """Documents in rows as long as BATCH of them are on average, each in the first that has room for it."""
    rows: list[list[Document]] = []
    length = max(max(map(sum, found)), BATCH * sum(map(sum, found)) // len(found))
    for document in found:
        size = sum(document)
        row = next((row for row in rows if sum(map(sum, row)) + size <= length), None)
        if row is None:
            rows.append(row := [])
        row.append(document)
    return rows


def batches_of(found: list[Document], by_length: bool) -> list[list[Document]]:
    """Documents in batches, as they come or those of like length together."""
    ordered = sorted(found, key=sum) if by_length else found
    return [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]


def padding(found: list[Document], by_length: bool) -> float:
    """How many tokens padded batches have for each that is no padding."""
    return sum(len(batch) * max(map(sum, batch)) for batch in batches_of(found, by_length)) / sum(map(sum, found))


def ours(found: list[Document], lora: bool) -> Learn:
    """What learns documents once with Decoder and BMTrain's optimizer."""
    import torch

    from fm9g import runtime
    from fm9g.lora.adapters import Adapters
    from fm9g.lora.settings import LoraSettings
    from fm9g.model.config import ModelConfig
    from fm9g.model.decoder import Decoder, as_it_is

    runtime.initialize(seed=1)
    config = ModelConfig(**SHAPE, dtype="float32", max_length=LONGEST)  # type: ignore[arg-type]
    settings = LoraSettings(lora=lora, lora_r=LORA["r"], lora_alpha=LORA["alpha"])
    model = Decoder(config, prepare=Adapters(settings, config).prepare if lora else as_it_is)
    runtime.bmt.init_parameters(model)
    optimizer = runtime.bmt.optim.AdamOptimizer([p for p in model.parameters() if p.requires_grad], **ADAM)
    manager = runtime.bmt.optim.OptimManager(grad_scale=1)
    manager.add_optimizer(optimizer)

    def learn(first: int | None) -> None:
        for row in rows_of(found)[:first]:
            tokens = torch.randint(0, config.vocab_size, (sum(map(sum, row)),))
            targets = torch.cat([_targets(torch.randint(0, config.vocab_size, (sum(d),)), d) for d in row])
            manager.zero_grad()
            total, _ = model.loss(tokens, targets, model.context([sum(d) for d in row]))
            manager.backward(total / sum(answer for _, answer in row))
            manager.clip_grad_norm(optimizer.param_groups, 1.0)
            manager.step()

    return learn


def _targets(tokens: Any, document: Document) -> Any:
    tokens[: document[0]] = -100
    return tokens


def theirs(found: list[Document], lora: bool, by_length: bool) -> Learn:
    """The same with transformers (and PEFT), in batches that are padded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=SHAPE["vocab_size"],
        hidden_size=SHAPE["dim_model"],
        num_attention_heads=SHAPE["num_heads"],
        num_hidden_layers=SHAPE["num_layers"],
        intermediate_size=SHAPE["dim_ff"],
        tie_word_embeddings=True,
        max_position_embeddings=LONGEST,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model: Any = LlamaForCausalLM(config)
    if lora:
        import peft

        adapters = peft.LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=THEIRS, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, adapters)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, **ADAM)
    batches = batches_of(found, by_length)

    def learn(first: int | None) -> None:
        for batch in batches[:first]:
            longest = max(map(sum, batch))
            tokens = torch.randint(0, config.vocab_size, (len(batch), longest))
            mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
            for i, (asked, answer) in enumerate(batch):
                mask[i, : asked + answer] = 1
                labels[i, asked : asked + answer] = tokens[i, asked : asked + answer]
            optimizer.zero_grad()
            model(tokens, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

    return learn


def measured(side: str, lora: bool, found: list[Document]) -> tuple[float, float]:
    """(seconds of the processor, gigabytes at most) of one side, in this process."""
    learn = ours(found, lora) if side == "ours" else theirs(found, lora, side == "padded by length")
    learn(2)  # memory is there then, and kernels are chosen
    started = time.process_time()
    learn(None)
    return time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=40, help="conversations that are learned in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side, in turn")
    parser.add_argument("--data", help="a file of conversations, whose lengths are taken")
    parser.add_argument("--tokenizer", help="the tokenizer folder that --data is measured with")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lora", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.data and not arguments.tokenizer:
        parser.error("--data needs --tokenizer, with which it is measured")
    sets = {n: documents(arguments.documents, n, arguments.data, arguments.tokenizer) for n in _numbers(arguments)}
    if arguments.side:
        print(json.dumps(measured(arguments.side, bool(arguments.lora), sets[arguments.number])))
        return
    tokens = sum(sum(map(sum, found)) for found in sets.values())
    padded = " and ".join(
        f"{sum(padding(found, by_length) * sum(map(sum, found)) for found in sets.values()) / tokens:.2f}"
        for by_length in (False, True)
    )
    print(
        f"{len(sets)} times {arguments.documents} conversations; with padding, at random and by length, {padded}",
        end="",
    )
    print(" times their tokens are computed\nfloat32; tokens of answers per second of the processor, memory in GB")
    print(f"{'':6} " + " ".join(f"{side:>24}" for side in SIDES) + f" {'ratios':>14}")
    answers, speeds = sum(answer for found in sets.values() for _, answer in found), {}
    for lora in (0, 1):
        rounds = [[in_own_process(__file__, arguments, side=side, lora=lora, number=n) for side in SIDES] for n in sets]
        seconds, memory = ([[run[side][i] for run in rounds] for side in range(len(SIDES))] for i in (0, 1))
        mine, *peers = speeds[lora] = [answers / sum(some) for some in seconds]
        shown = " ".join(
            f"{speed:16,.0f} {max(most):4.1f} GB" for speed, most in zip(speeds[lora], memory, strict=True)
        )
        ratios = " ".join(f"{mine / peer:6.2f}" for peer in peers)
        print(f"{'LoRA' if lora else 'full':6} {shown} {ratios:>14}", flush=True)
    print(f"LoRA is {speeds[1][0] / speeds[0][0]:.2f} of the speed of full training")


def _numbers(arguments: argparse.Namespace) -> list[int]:
    """Those of all rounds, or of the one that this process is for."""
    return [arguments.number] if arguments.side else list(range(1, arguments.rounds + 1))


if __name__ == "__main__":
    main()
