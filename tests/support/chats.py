"""Conversations of every shape, and what a renderer makes of them."""

from __future__ import annotations

from typing import Any

from fm9g.data.chat.conversation import read_conversation
from fm9g.data.chat.render import Renderer, beginnings
from fm9g.data.chat.template import FOLDER, read_template
from fm9g.data.example import Example
from fm9g.data.stream.document import Document, Skip, make_document
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import Tokenizer

QUESTIONS = ["What is a lane?", "两者有什么区别？", "  Say it again,\nplease. ", "1 + 1 = ?", "继续", "\nAnd then?"]
QUESTIONS += ["Why?", "为什么 this?"]
ANSWERS = [
    "A source of rows.",
    "没有区别。\n\n1. 一样\n2. 相同",
    " It is so. ",
    "2",
    "好的，\t再见！",
    "\n\nThen it ends.",
]
ANSWERS += ["Be cause…", "😀 emoji"]


def conversation(rounds: int, first: int = 0, system: str = "") -> dict[str, Any]:
    """A record of so many rounds, from question `first` on."""
    turns = []
    for number in range(first, first + rounds):
        turns.append({"from": "human", "value": QUESTIONS[number % len(QUESTIONS)]})
        turns.append({"from": "gpt", "value": ANSWERS[(number * 3 + first) % len(ANSWERS)]})
    return {"conversations": turns} | ({"system": system} if system else {})


RECORDS = [conversation(rounds, first) for first in range(len(QUESTIONS)) for rounds in (1, 2, 3, 5)]
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
END = {"chatglm3": "<|user|>", "cohere": "<|END_OF_TURN_TOKEN|>", "gemma": "<end_of_turn>", "internlm": "<eoa>"}
END |= {"llama3": "<|eot_id|>", "phi3": "<|end|>", "starchat": "<|end|>"}
END |= dict.fromkeys(("chatml", "qwen", "qwen3", "yi", "internlm2", "minicpm", "fm9g"), "<|im_end|>")
TOKENS = sorted({name for path in FOLDER.glob("*.json") for name in read_template(path).tokens()} - {"bos", "eos"})
# text, for these templates, that other models have tokens for
TEXTS = {"llama2": ["[INST]", "[/INST]"], "llama2-zh": ["[INST]", "[/INST]"]}
TEXTS["zephyr"] = ["<|user|>", "<|assistant|>", "<|system|>"]


def document(renderer: Renderer, record: dict[str, Any], row_length: int = 1 << 20) -> Document | Skip:
    """What a renderer makes of a record."""
    parts = renderer.parts(record)
    example = Example(0, (parts,), beginnings=beginnings(parts), short=sum(part.short for part in parts))
    texts = [text for _, text in example.texts] + list(example.beginnings)
    ids = dict(zip([(0, text) for text in texts], renderer.encode_all(texts, Written.NONE), strict=True))
    return make_document(example, ids, "segment", row_length)


def tokens_and_ranges(renderer: Renderer, record: dict[str, Any]) -> tuple[list[int], list[list[int]]]:
    """All tokens of a record, and those of each range that is learned."""
    made = document(renderer, record)
    assert isinstance(made, Document)
    (sequence,) = made.sequences
    tokens = sequence.tokens.tolist()
    return tokens, [tokens[start:stop] for start, stop in sequence.targets]


def answers(record: dict[str, Any]) -> list[str]:
    """What the assistant says in a record."""
    return [turn["value"] for turn in record["conversations"] if turn["from"] == "gpt"]


def said_in(ranges: list[list[int]], tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """The text of each range that is learned, and the token that ends it."""
    return [(tokenizer.decode(ids[:-1]).strip(), ids[-1]) for ids in ranges]


def to_learn(record: dict[str, Any], template: str, tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """What the assistant says in a record, and the token with which a template of ours ends it."""
    more = "###" if template == "aquila" else ""  # which ends its answers, too
    end = tokenizer.id_of(END.get(template, "</s>"))
    return [
        ((turn.text.strip() if not more else turn.text + more).strip(), end)
        for turn in read_conversation(record).turns
        if turn.answers
    ]


def messages(record: dict[str, Any]) -> list[dict[str, str]]:
    """A record as OpenAI's messages."""
    read = read_conversation(record)
    system = [{"role": "system", "content": read.system}] if read.system else []
    return system + [{"role": turn.role, "content": turn.text} for turn in read.turns]


def transformers_tokenizer(tokenizer: Tokenizer) -> Any:
    """The tokenizer of the same folder in transformers."""
    import transformers

    folder = tokenizer.path.parent
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def their_ids(theirs: Any, record: dict[str, Any]) -> list[int]:
    """The ids that transformers gives a record by the chat template of the tokenizer's folder."""
    found = theirs.apply_chat_template(messages(record), tokenize=True)  # since transformers 5 with a mask
    return found if isinstance(found, list) else found["input_ids"]
