#!/usr/bin/env python
"""Bits per byte of held-out texts, a line each, under some models: compare.py TEXTS MODEL [MODEL ...]"""

import math
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = 20


@torch.no_grad()
def bits_per_byte(folder: str, texts: list[str]) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    bits, size = 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]])
        bits += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) / math.log(2)
        size += len(text.encode())
    return bits / size


def main(path: str, *folders: str) -> None:
    texts = Path(path).read_text(encoding="utf-8").splitlines()[:TEXTS]
    for folder in folders:
        print(f"{folder}: {bits_per_byte(folder, texts):.4f} bits a byte")


if __name__ == "__main__":
    main(*sys.argv[1:])
