"""Convert weights of FM9G to a Hugging Face folder.

Config and tokenizer come from a reference folder (--huggingface-ref-dir), the config alone where --tokenizer is
given, too: for a model that was given more tokens. For a model trained from scratch they come from --model-config and
--tokenizer. With --lora-ckpt-path adapters are merged into the weights, or with --adapter-only written by themselves.
"""

from __future__ import annotations

import argparse

from fm9g.checkpoint.named import find_weights
from fm9g.commandline import parse_flags, path
from fm9g.convert.adapter_files import adapters_to_peft
from fm9g.convert.adapters import SavedAdapters, read_adapters
from fm9g.convert.bmtrain_to_huggingface import DEFAULT_SHARD_SIZE, from_scratch, with_reference
from fm9g.errors import UserError
from fm9g.tensors.lazy import DTYPE_ARGUMENTS, parse_dtype


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bmtrain-ckpt-path",
        type=path,
        help="the weights to convert: a .pt, a .safetensors, a .safetensors.index.json, or the folder of a checkpoint "
        "or of a run (its latest)",
    )
    parser.add_argument("--huggingface-save-dir", type=path, required=True, help="the folder to write")
    parser.add_argument(
        "--huggingface-ref-dir", type=path, help="a Hugging Face folder whose config and tokenizer the model has"
    )
    parser.add_argument("--model-config", type=path, help="the model's model_configs/*.json (no reference folder)")
    parser.add_argument(
        "--tokenizer",
        type=path,
        help="a Hugging Face tokenizer folder or a sentencepiece .model file (with a reference folder: where the model "
        "has more tokens)",
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
    parser.add_argument("--lora-ckpt-path", type=path, help="adapters to merge into the weights, in any of these forms")
    parser.add_argument(
        "--lora-config-path",
        type=path,
        help="the train config of their run (default: what its state.json beside them says)",
    )
    parser.add_argument(
        "--adapter-only", action="store_true", help="write the adapters alone, as a PEFT folder for the model"
    )
    return parser


def _adapters(flags: argparse.Namespace) -> SavedAdapters | None:
    if flags.lora_ckpt_path:
        return read_adapters(find_weights(flags.lora_ckpt_path), flags.lora_config_path)
    if flags.lora_config_path:
        raise UserError("--lora-config-path says what the adapters of --lora-ckpt-path are: give that, too")
    return None


def main() -> None:
    flags = parse_flags(arguments())
    adapters = _adapters(flags)
    if flags.adapter_only:
        if adapters is None or bool(flags.huggingface_ref_dir) == bool(flags.model_config):
            raise UserError("--adapter-only needs --lora-ckpt-path, and --huggingface-ref-dir or --model-config")
        for name in ("bmtrain_ckpt_path", "tokenizer", "dtype", "template"):
            if getattr(flags, name):
                raise UserError(
                    f"--{name.replace('_', '-')} says nothing of adapters: leave it out with --adapter-only"
                )
        target = flags.huggingface_save_dir
        adapters_to_peft(adapters, flags.huggingface_ref_dir, flags.model_config, target, flags.overwrite)
        print(f"{target}: a PEFT folder of {len(adapters.adapters)} adapters")
        return
    if not flags.bmtrain_ckpt_path:
        raise UserError("--bmtrain-ckpt-path is needed: the weights to convert")
    dtype = parse_dtype(flags.dtype) if flags.dtype else None
    paths = (flags.bmtrain_ckpt_path, flags.huggingface_save_dir)
    options = {"dtype": dtype, "max_shard_size": flags.max_shard_size, "overwrite": flags.overwrite}
    options |= {"template": flags.template, "adapters": adapters}
    if flags.huggingface_ref_dir and not flags.model_config:
        with_reference(flags.huggingface_ref_dir, *paths, **options, tokenizer=flags.tokenizer)
    elif flags.model_config and flags.tokenizer and not flags.huggingface_ref_dir:
        from_scratch(flags.model_config, flags.tokenizer, *paths, **options)
    else:
        raise UserError("give either --huggingface-ref-dir, or both --model-config and --tokenizer")
    merged = f", {len(adapters.adapters)} adapters merged" if adapters else ""
    print(f"{flags.huggingface_save_dir}: a Hugging Face model{merged}")
