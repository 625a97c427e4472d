"""Convert a .pt file of FM9G to a Hugging Face folder.

Config and tokenizer come from a reference folder (--huggingface-ref-dir), or for a model trained from
scratch from --model-config and --tokenizer.
"""

from __future__ import annotations

import argparse

from fm9g.commandline import parse_flags, path
from fm9g.convert.bmtrain_to_huggingface import DEFAULT_SHARD_SIZE, from_scratch, with_reference
from fm9g.errors import UserError
from fm9g.tensors.lazy import DTYPE_ARGUMENTS, parse_dtype


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bmtrain-ckpt-path", type=path, required=True, help="the .pt file to convert")
    parser.add_argument("--huggingface-save-dir", type=path, required=True, help="the folder to write")
    parser.add_argument(
        "--huggingface-ref-dir", type=path, help="a Hugging Face folder whose config and tokenizer the model has"
    )
    parser.add_argument("--model-config", type=path, help="the model's model_configs/*.json (no reference folder)")
    parser.add_argument(
        "--tokenizer",
        type=path,
        help="a Hugging Face tokenizer folder or a sentencepiece .model file (no reference folder)",
    )
    parser.add_argument(
        "--template",
        help="the chat template to take along, of chat_templates/ or a path (default: the one trained with)",
    )
    parser.add_argument("--dtype", help=f"one of {', '.join(DTYPE_ARGUMENTS)} (default: the checkpoint's own)")
    parser.add_argument(
        "--max-shard-size", default=DEFAULT_SHARD_SIZE, help="largest weight file, like 500MB (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it holds a model")
    parser.add_argument("--lora-ckpt-path", type=path, help="not in this version: LoRA weights to merge")
    parser.add_argument("--lora-config-path", type=path, help="not in this version: their train_configs/*.json")
    return parser


def main() -> None:
    flags = parse_flags(arguments())
    if flags.lora_ckpt_path or flags.lora_config_path:
        raise UserError("LoRA merging (--lora-ckpt-path, --lora-config-path) belongs to a later version")
    dtype = parse_dtype(flags.dtype) if flags.dtype else None
    paths = (flags.bmtrain_ckpt_path, flags.huggingface_save_dir)
    options = {"dtype": dtype, "max_shard_size": flags.max_shard_size, "overwrite": flags.overwrite}
    options["template"] = flags.template
    scratch = (flags.model_config, flags.tokenizer)
    if flags.huggingface_ref_dir and not any(scratch):
        with_reference(flags.huggingface_ref_dir, *paths, **options)
    elif all(scratch) and not flags.huggingface_ref_dir:
        from_scratch(flags.model_config, flags.tokenizer, *paths, **options)
    else:
        raise UserError("give either --huggingface-ref-dir, or both --model-config and --tokenizer")
    print(f"{flags.huggingface_save_dir}: a Hugging Face model")
