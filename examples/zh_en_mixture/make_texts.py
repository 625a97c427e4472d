#!/usr/bin/env python
"""Write texts in two languages that need no download: make_texts.py FOLDER

en.txt    the language reference that comes with Python, a paragraph a line
zh.txt    sums worked in Chinese, a few lines of code's worth of it
"""

import random
import sys
from pathlib import Path
from pydoc_data.topics import topics

DIGITS = "零一二三四五六七八九"


def chinese(number: int) -> str:
    """A number below 100 in Chinese characters."""
    tens, ones = divmod(number, 10)
    return ("" if tens < 2 else DIGITS[tens]) + ("十" if tens else "") + (DIGITS[ones] if ones or not tens else "")


def sums(count: int) -> list[str]:
    """Documents of three to twelve sentences."""
    chance, texts = random.Random(0), []
    for _ in range(count):
        sentences = []
        for _ in range(chance.randint(3, 12)):
            a, b = chance.randint(0, 49), chance.randint(0, 49)
            name, thing = chance.choice("张王李赵陈"), chance.choice(["苹果", "书", "铅笔", "橘子"])
            sentences.append(
                f"小{name}有{chinese(a)}个{thing}，又买了{chinese(b)}个，现在一共有{chinese(a + b)}个{thing}。"
            )
        texts.append("".join(sentences))
    return texts


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    paragraphs = [" ".join(part.split()) for text in topics.values() for part in text.split("\n\n")]
    for name, texts in (("en.txt", paragraphs), ("zh.txt", sums(4000))):
        Path(folder, name).write_text("".join(f"{text}\n" for text in texts if text), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
