"""Merge a PEFT adapter (LoRA, rsLoRA, DoRA) into its Hugging Face model, as MedicalGPT's merge_peft_adapter.py does.

%(prog)s --base_model models/llama --tokenizer_path models/llama --lora_model out/lora --output_dir models/merged
"""

import argparse

from fm9g.commandline import parse_flags, path
from fm9g.convert.merge_peft import merge_peft


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base-model", type=path, required=True, metavar="DIR", help="the model's folder")
    add("--tokenizer-path", type=path, metavar="DIR", help="the tokenizer's folder (default: the model's)")
    add("--lora-model", type=path, required=True, metavar="DIR", help="the adapter's folder")
    add("--output-dir", type=path, required=True, metavar="DIR", help="the folder to write")
    add("--resize-emb", action="store_true", help="add rows for tokens that the model has none for")
    add("--overwrite", action="store_true", help="replace the folder if it holds a model")
    flags = parse_flags(parser)
    tokenizer = flags.tokenizer_path or flags.base_model
    count = merge_peft(
        flags.base_model, tokenizer, flags.lora_model, flags.output_dir, flags.resize_emb, flags.overwrite
    )
    print(f"{flags.output_dir}: a Hugging Face model, {count} adapters merged")
