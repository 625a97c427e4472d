#!/usr/bin/env python
"""The adapter loaded in PEFT beside the merged model in transformers: in_peft.py MODEL ADAPTER MERGED"""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "textwrap.dedent removes what white space all lines of a text begin with."


@torch.no_grad()
def main(model: str, adapter: str, merged: str) -> None:
    tokens = AutoTokenizer.from_pretrained(merged)(TEXT, return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    before = base(tokens).logits
    with_adapter = PeftModel.from_pretrained(base, adapter).eval()(tokens).logits
    of_merged = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()(tokens).logits
    moved, apart = (float((with_adapter - other).abs().max()) for other in (before, of_merged))
    print(f"logits to {float(of_merged.abs().max()):.1f}: the adapter in PEFT moves the model's by {moved:.2g}")
    print(f"and differs from the merged model's by {apart:.2g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
