"""A tiny LLaMA with random weights and its tokenizer, and instructions for it, so that the loop takes minutes."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

RECORDS = 600
ANIMALS = ["猫", "狗", "马", "鱼", "鸟", "cat", "dog", "horse", "fish", "bird"]


def record(r: random.Random) -> dict[str, str]:
    """An instruction, some with an input, as BELLE's data have them."""
    first, second, animal = r.randrange(20), r.randrange(20), r.choice(ANIMALS)
    return r.choice(
        [
            {"instruction": "把两个数相加。", "input": f"{first} 和 {second}", "output": f"{first + second}"},
            {"instruction": f"Repeat the word {animal} twice.", "output": f"{animal} {animal}"},
            {"instruction": f"{animal} 是动物吗？", "output": f"是的，{animal} 是动物。"},
            {"instruction": "Which number comes next?", "input": f"{first}", "output": f"{first + 1}"},
        ]
    )


def main() -> None:
    out = Path(sys.argv[1])
    r = random.Random(1)
    records = [record(r) for _ in range(RECORDS)]
    (out / "instructions.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    texts = [{"output": " ".join(one.values())} for one in records]
    (out / "texts.jsonl").write_text("".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    words = ["--path", str(out / "texts.jsonl"), "--vocab_size", "512", "--output", str(out / "tokenizer")]
    subprocess.run([sys.executable, "tools/train_tokenizer.py", *words], check=True)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(out / "llama")
    for path in (out / "tokenizer").iterdir():
        shutil.copy(path, out / "llama" / path.name)


if __name__ == "__main__":
    main()
