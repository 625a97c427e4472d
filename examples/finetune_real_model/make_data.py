"""Questions about Python's standard library as conversations, some held out: make_data.py FOLDER

The questions are those of tools/quickstart_finetuning.py: what functions and classes are, by their documentation.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from quickstart_finetuning import questions

TRAINED, HELD_OUT = 500, 100


def main() -> None:
    folder = Path(sys.argv[1])
    found = list(questions())
    step = len(found) // (TRAINED + HELD_OUT)
    chosen = found[::step][: TRAINED + HELD_OUT]
    held_out = chosen[:: 1 + TRAINED // HELD_OUT]
    trained = [record for record in chosen if record not in held_out]
    for name, records in (("train", trained), ("held_out", held_out)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
