#!/usr/bin/env python
"""Write train.txt and held_out.txt, the language reference that comes with Python: make_texts.py FOLDER"""

import sys
from pathlib import Path
from pydoc_data.topics import topics


def main(folder: str) -> None:
    paragraphs = [" ".join(part.split()) for text in topics.values() for part in text.split("\n\n")]
    paragraphs = [text for text in dict.fromkeys(paragraphs) if len(text) > 80]
    parts = {"held_out.txt": paragraphs[::10], "train.txt": [text for i, text in enumerate(paragraphs) if i % 10]}
    for name, texts in parts.items():
        Path(folder, name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
