"""Convert a Hugging Face folder to a .pt file that FM9G trains from, with its model config beside it.

With --tokenizer and --resize-from it gets rows for the tokens of a larger tokenizer, each the mean of the rows of those
that spell the same in the one that the model has; what it gives for old tokens stays.
"""

from __future__ import annotations

import argparse

from fm9g.commandline import parse_flags, path
from fm9g.convert.adapter_files import peft_to_bmtrain
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.errors import UserError
from fm9g.lora.told import note_path
from fm9g.model.parameters import num_parameters
from fm9g.tensors.lazy import DTYPE_ARGUMENTS, parse_dtype


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--huggingface-dir",
        type=path,
        required=True,
        help="folder with config.json and safetensors or pytorch_model*.bin files",
    )
    parser.add_argument(
        "--output",
        type=path,
        required=True,
        help="the .pt file to write; its config goes to a .json beside it",
    )
    parser.add_argument("--peft-dir", type=path, help="convert this PEFT folder of adapters for that model instead")
    parser.add_argument("--dtype", help=f"one of {', '.join(DTYPE_ARGUMENTS)} (default: the source's own)")
    parser.add_argument("--tokenizer", type=path, help="the larger tokenizer, of tools/merge_tokenizers.py")
    parser.add_argument("--resize-from", type=path, help="the tokenizer that the model has, from which rows are made")
    parser.add_argument("--overwrite", action="store_true", help="replace the output files if they exist")
    flags = parse_flags(parser)
    if bool(flags.tokenizer) != bool(flags.resize_from):
        raise UserError("--tokenizer, the larger one, and --resize-from, the model's own, are given together")
    if flags.peft_dir:
        if flags.tokenizer:
            raise UserError("--tokenizer is for weights: rows of adapters are trained already")
        if flags.dtype:
            raise UserError("--dtype is for weights: adapters keep theirs")
        count = peft_to_bmtrain(flags.peft_dir, flags.huggingface_dir, flags.output, flags.overwrite)
        print(f"{flags.output}: {count} adapters; what they are is in {note_path(flags.output)}")
        return
    dtype = parse_dtype(flags.dtype) if flags.dtype else None
    tokenizers = (flags.resize_from, flags.tokenizer) if flags.tokenizer else None
    config = huggingface_to_bmtrain(flags.huggingface_dir, flags.output, dtype, flags.overwrite, tokenizers)
    rows = f", {config.vocab_size} rows of embeddings for {flags.tokenizer}" if tokenizers else ""
    print(f"{flags.output}: {num_parameters(config):,} parameters, {config.dtype}{rows}")
