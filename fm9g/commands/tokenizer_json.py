"""Write the tokenizer of a model that comes without tokenizer.json as a folder that has one; no code of it is run.

    %(prog)s --tokenizer models/Qwen-7B --output tokenizer_qwen

Read are Qwen-1's qwen.tiktoken, GLM-4's tokenizer.model of ranks, the sentencepiece models of ChatGLM2 and 3,
InternLM2, Baichuan and LLaMA with their added tokens, and Bloom's vocab.json and merges.txt. The tokenizer_config.json
beside them says which.
"""

from __future__ import annotations

import argparse

from fm9g.commandline import parse_flags, path
from fm9g.convert.tokenizer.classes import FAMILIES
from fm9g.convert.tokenizer.from_class import write_tokenizer_json


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tokenizer", type=path, required=True, metavar="DIR", help="the folder of the model, or of its tokenizer")
    add("--output", type=path, required=True, metavar="DIR", help="the folder to write")
    add("--family", choices=list(FAMILIES), help="where tokenizer_class leaves it open: chatglm2 or chatglm3")
    add("--overwrite", action="store_true", help="replace the tokenizer in a folder that is not empty")
    flags = parse_flags(parser)
    report = write_tokenizer_json(flags.tokenizer, flags.output, flags.family, flags.overwrite)
    print(f"{flags.output}: {report.family}, {report.size} tokens, {report.special} of them special")
