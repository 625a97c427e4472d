"""Does transformers give an exported folder's texts the ids that training gave them?"""

from __future__ import annotations

import functools
import itertools
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.errors
import tokenizers
import transformers

from fm9g.convert.hf_config import family_for, huggingface_config
from fm9g.convert.tokenizer.files import (
    has_tiktoken,
    install_tokenizer,
    mark_special,
    name_fast_class,
    training_reads,
)
from fm9g.convert.tokenizer.of_weights import vocabulary_of
from fm9g.data.tokens.sentencepiece_proto import NORMAL, UNIGRAM, SentencePieceModel, read_sentencepiece
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer, read_object
from fm9g.errors import UserError, shown
from fm9g.files import write_json
from fm9g.model.config import ModelConfig

# what newer releases raise for a config.json that they do not like
_STRICT = tuple(filter(None, [getattr(huggingface_hub.errors, "StrictDataclassError", None)]))
TEXTS = 1000
_BATCH = 1000
_SPECIAL = 16  # special tokens that are tried beside text
_READER = f"transformers {transformers.__version__}"
_SHOWN = 12  # ids of a text where they begin to differ

_WORDS = """
    the quick brown fox, 12.5% of it; don't! naïve café Straße Ελλάδα Привет мир שלום עולם العربية हिन्दी ไทย ქართული
    日本語 カタカナ ｶﾞ 한국어 中文，分词器。 春眠不觉晓 漢字 ＡＢＣ １２３ ① ½ ﬁ Å ² ™ ㍿ … — “quoted”
    www.example.com/a_b?c=d#e
    def f(x): return x**2 == 4 != <p class=a> </p> {json: [1, 2]} 0x0A 3,141.59 2024-01-31 ======= ------ aaaaaaaa
"""
_MARKS = [
    *"\u0300\u0301\u0302\u0308\u0323\u0327\u3099\u309a\u0e31\u093f\u05b0\u064e",
    "e\u0301",
    "a\u0323\u0302",
    "か\u3099",
]
_MARKS += ["\u1112\u1161\u11ab", "가\u11a8", "\u0345", "n\u0303o\u0308"]
_SPACES = [
    " ",
    "  ",
    "   ",
    "     ",
    " " * 17,
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " \n ",
    "\u00a0",
    "\u3000",
    "\u2009",
]
_SPACES += ["\u2028", "\u200b", "\u200d", "\ufeff", "\u0085", "\u2581", "\u2581\u2581"]
_CONTROLS = [chr(code) for code in (*range(1, 32), 127, 128, 143, 159, 0xAD, 0x202E, 0xFFFD)]
_EMOJI = [
    "😀",
    "👍🏽",
    "👨\u200d👩\u200d👧",
    "🇨🇳🇫🇷",
    "❤\ufe0f",
    "1\ufe0f\u20e3",
    "🏴\U000e0067\U000e0062\U000e007f",
    "𝔸𝓫",
    "𠀀",
    "𐍈",
]
_SPELLED = [
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<0x0A>",
    "<0xFF>",
    "<|endoftext|>",
    "<|im_start|>",
    "[CLS]",
    "[UNK]",
    "<s",
    "0x0A>",
]


def check_export(tokenizer: Path, folder: Path, checkpoint: Path) -> None:
    """Make sure that `folder` holds the tokenizer that training reads from `tokenizer` (a reference may have none).

    Where it is known that the weights of `checkpoint` came with another tokenizer, a warning says so.

    Where the class that its tokenizer_config.json names builds another tokenizer from tokenizer.json (LlamaTokenizer
    does in transformers 5), the class that takes the file as it is replaces it; tokens that are special in training
    are marked so.
    """
    if not training_reads(tokenizer) or has_tiktoken(tokenizer):
        return
    trained = load_tokenizer(tokenizer)
    _warn_of_another(trained, checkpoint)
    if ties := make_same(trained, folder):
        print(
            f"note: {ties:,} of the compared texts are cut otherwise, in a way of equal score: see Ties in "
            "docs/training.md",
            file=sys.stderr,
        )


def check_reference(folder: Path) -> None:
    """Refuse, before anything is read or written, a reference whose tokenizer training reads in another form alone."""
    if not training_reads(folder) or has_tiktoken(folder):
        return
    try:
        load_tokenizer(folder)
    except UserError as error:
        raise UserError(f"{error}; give the folder that it writes as --tokenizer") from None


def try_export(tokenizer: Path, config: ModelConfig, where: str) -> None:
    """Raise UserError where a model from scratch with this tokenizer could not be exported; leaves nothing behind."""
    trained = load_tokenizer(tokenizer)
    with tempfile.TemporaryDirectory() as temporary:
        ids = install_tokenizer(tokenizer, Path(temporary), config.vocab_size)
        values = huggingface_config(config, "BF16", ids, where)
        if family_for(config, where).model_type is None:  # transformers has no such class, and none of its tokenizers
            values = {"model_type": "llama", **ids}
        write_json(Path(temporary) / "config.json", values)
        make_same(trained, Path(temporary))


def make_same(trained: Tokenizer, folder: Path) -> int:
    """Check `folder`, and have its files say what makes it the same where they do not; returns the ties."""
    try:
        return _check(trained, folder)
    except UserError as error:
        if not name_fast_class(folder) | mark_special(folder, trained.special):
            raise UserError(f"{error}{_forced_class(trained, folder)}") from None
    try:
        return _check(trained, folder)
    except UserError as error:
        raise UserError(f"{error}{_forced_class(trained, folder)}") from None


def _forced_class(trained: Tokenizer, folder: Path) -> str:
    """What is to be said where transformers builds the tokenizer its own way, whatever tokenizer_config.json asks."""
    kind, model = type(_load(trained, folder)).__name__, read_object(folder / "config.json").get("model_type")
    if kind in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return ""
    return (
        f". For model_type {model!r} it makes a {kind} of any tokenizer.json: take a tokenizer that is one (that of a "
        "published model of this type), or a model config of another architecture"
    )


def _check(trained: Tokenizer, folder: Path) -> int:
    ties = check_same_ids(trained, folder)
    _check_around_special(trained, folder)
    return ties


def _warn_of_another(trained: Tokenizer, checkpoint: Path) -> None:
    if vocabulary_of(checkpoint) not in (None, trained.vocabulary):
        print(
            f"warning: {trained.path}: is not the tokenizer that the weights of {checkpoint} came with: to them, its "
            "ids mean other text",
            file=sys.stderr,
        )


def check_same_ids(trained: Tokenizer, folder: Path) -> int:
    """How many texts are cut otherwise in a way of equal score.

    UserError where `folder`, loaded by the installed transformers or by training, is another tokenizer.

    Compared are BOS, EOS, and the ids of the tokenizer's own pieces and of generated texts, without special tokens
    and with their spellings taken as text, as training takes them.
    """
    again = load_tokenizer(folder)
    loaded = _load(trained, folder)
    for name in ("bos_id", "eos_id", "vocab_size"):
        if getattr(again, name) != getattr(trained, name):
            raise UserError(f"{trained.path}: {name} is {getattr(trained, name)}, but exported {getattr(again, name)}")
    spelled = _found_in_text(trained, loaded)
    texts = itertools.chain(own_pieces(trained, again), trained.special.values(), generated_texts())
    ties = 0
    while batch := list(itertools.islice(texts, _BATCH)):
        expected = trained.encode_all(batch)
        found = loaded(batch, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        _compare(trained, batch, expected, again.encode_all(batch), "training on the export")
        ties += _compare(trained, batch, expected, found, _READER, spelled)
    _check_spellings(trained, folder)  # last: where texts differ, too, they say more
    return ties


def _check_spellings(trained: Tokenizer, folder: Path) -> None:
    """Raise UserError where the tokenizers library gives a token another id than the written file says: an added one
    that is spelled as a token of the vocabulary has the id of that, and those after it are off by one."""
    found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    for id, text in trained.spellings.items():
        if found.get(text) != id:
            raise UserError(
                f"{trained.path}: token {id} is {shown(text)}, but exported {shown(text)} has the id {found.get(text)}"
            )
    if extra := sorted(found.keys() - set(trained.spellings.values())):
        raise UserError(f"{trained.path}: has no {shown(extra[0])}, but exported it has the id {found[extra[0]]}")


def _load(trained: Tokenizer, folder: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, ImportError, *_STRICT) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{trained.path}: transformers cannot load the exported tokenizer: {why}") from None


def _found_in_text(trained: Tokenizer, loaded: Any) -> list[str]:
    """Special tokens that a text may write where transformers reads it, whatever it is told; training hides them."""
    if isinstance(trained, SentencePieceTokenizer):
        return []
    model = read_object(trained.path)["model"]
    whole_entries = model.get("type") in ("Unigram", "WordLevel") or model.get("ignore_merges")
    return [*loaded.all_special_tokens, *(trained.special.values() if whole_entries else [])]


def _check_around_special(trained: Tokenizer, folder: Path) -> None:
    """Raise UserError where transformers cuts text otherwise that stands beside special tokens, as in chats."""
    spellings = list(trained.special.values())[:_SPECIAL]
    texts = [text.replace("*", spelling) for spelling in spellings for text in ("the*the", "*the", "a * b", "*\n* the")]
    expected = trained.encode_all(texts, Written.ALL)
    found = _load(trained, folder)(texts, add_special_tokens=False)["input_ids"] if texts else []
    _compare(trained, texts, expected, found, _READER)


def _compare(
    trained: Tokenizer,
    texts: Sequence[str],
    expected: Sequence[list[int]],
    found: Sequence[list[int]],
    reader: str,
    spelled: Sequence[str] = (),
) -> int:
    """How many differ in a way of equal score; UserError for one that differs otherwise and has none of `spelled`."""
    ties = 0
    for text, ids, others in zip(texts, expected, found, strict=True):
        if ids == others or any(token in text for token in spelled):
            continue
        if _tied(trained, ids, others):
            ties += 1
        else:
            pairs = enumerate(zip(ids, others, strict=False))
            first = next((n for n, (one, other) in pairs if one != other), min(len(ids), len(others)))
            raise UserError(
                f"{trained.path}: the exported tokenizer is not the one trained with: {text!r} is "
                f"{_from(ids, first)} in training, but {_from(others, first)} in {reader}"
            )
    return ties


def _tied(trained: Tokenizer, ids: list[int], others: list[int]) -> bool:
    """Whether a Unigram model of sentencepiece rates both ways to cut a text the same, but for rounding.

    It adds up scores in float32 and then takes one by chance of rounding ("====" + "=" or "=" + "===="); the
    tokenizers library adds in float64 and takes the first.
    """
    if not isinstance(trained, SentencePieceTokenizer):
        return False
    model = _read(trained.path)
    changed = [*(Counter(ids) - Counter(others)), *(Counter(others) - Counter(ids))]
    if model.algorithm != UNIGRAM or any(model.pieces[number].kind != NORMAL for number in changed):
        return False  # only those of text have scores
    one, other = (sum(model.pieces[number].score for number in numbers) for numbers in (ids, others))
    choices = (Counter(ids) - Counter(others)).total() + 1
    return abs(one - other) <= choices * 2**-23 * abs(one)


@functools.lru_cache(1)
def _read(path: Path) -> SentencePieceModel:
    return read_sentencepiece(path)


def _from(ids: list[int], first: int) -> str:
    some = ids[first : first + _SHOWN]
    return f"{some}{' …' if len(ids) > first + _SHOWN else ''} (from token {first})" if first else f"{some}"


def own_pieces(*tokenizers: Tokenizer) -> Iterator[str]:
    """Every piece of the vocabulary as text: its decoding, and its spelling with and without the space's symbol."""
    seen: set[str] = set()
    for number in range(tokenizers[0].vocab_size):
        for tokenizer in tokenizers:
            text = tokenizer.decode([number])
            if text not in seen:
                seen.add(text)
                yield text


def generated_texts(count: int = TEXTS) -> Iterator[str]:
    """Texts of mixed script, runs of whitespace, control characters, emoji, combining marks and spelled-out tokens.

    The same ones each time.
    """
    chance = random.Random(0)
    words = _WORDS.split()
    kinds = [words, words, words, _SPACES, _SPACES, _MARKS, _CONTROLS, _EMOJI, _SPELLED]
    yield from _CONTROLS + _SPACES + _EMOJI + _SPELLED
    for _ in range(count - len(_CONTROLS + _SPACES + _EMOJI + _SPELLED)):
        parts = []
        for _ in range(chance.randrange(1, 16)):
            parts.append(chance.choice(chance.choice(kinds)))
            if chance.random() < 0.4:
                parts.append(" ")
        yield "".join(parts)
