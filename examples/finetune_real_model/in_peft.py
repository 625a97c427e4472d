#!/usr/bin/env python
"""The adapter merged by PEFT, in float32, beside the merged model that was written: in_peft.py MODEL ADAPTER MERGED

Exit status 1 where more than 0.1 % of the weights differ: sums in another order round a few of them otherwise.
"""

import sys
from pathlib import Path

from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LARGEST_SHARE = 0.001


def main(model: str, adapter: str, merged: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(model).float()
    theirs = PeftModel.from_pretrained(base, adapter).float().merge_and_unload().state_dict()
    different, count = 0, 0
    for path in Path(merged).glob("*.safetensors"):
        for name, weight in load_file(path).items():
            different += int((theirs[name].to(weight.dtype) != weight).sum())
            count += weight.numel()
    if not count or different > LARGEST_SHARE * count:
        sys.exit(f"error: {different:,} of {count:,} weights of {merged} differ from PEFT's, more than 0.1 %")
    print(f"{different:,} of {count:,} weights differ from PEFT's, rounded alike")


if __name__ == "__main__":
    main(*sys.argv[1:])
