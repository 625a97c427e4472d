"""What the tokenizer classes of model families do that their vocabulary files do not say.

Their code comes with the models and is never run here: these rows say what it does. Which row is meant is told by
`tokenizer_class` in tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fm9g.commandline import command
from fm9g.data.tokens.added import CONFIG, AddedToken
from fm9g.errors import UserError, closest, shown

RANKS, PIECES, MERGES = "ranks of tiktoken", "sentencepiece", "vocab.json and merges.txt"
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GLM_MARKS = ("[MASK]", "[gMASK]", "[sMASK]")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_MEDIA = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")


@dataclass(frozen=True)
class TokenizerClass:
    """`after`: special tokens that have the ids after the vocabulary's; `roles`: which tokens are BOS, EOS and so on
    where nothing else says it; `fixed`: whether nothing else can; `prefix`: what the model sees before a text;
    `listed`: whether added_tokens_decoder, where there is one, is all that is `after`."""

    classes: tuple[str, ...]
    form: str
    file: str = "tokenizer.model"
    pattern: str = ""  # that text is cut by
    nfc: bool = False
    after: tuple[str, ...] = ()
    listed: bool = False
    roles: Mapping[str, str | None] = field(default_factory=dict)
    fixed: bool = False
    prefix: tuple[str, ...] = ()
    add_bos: bool = False  # where add_bos_token does not say it
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # what settings may be, besides left out


_END = {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
_GLM_ENDS = {"bos_token": None, "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
FAMILIES = {
    "qwen": TokenizerClass(
        ("QWenTokenizer",),
        RANKS,
        "qwen.tiktoken",
        f"{_LETTERS}|\\p{{N}}|{_REST}",
        nfc=True,
        after=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205))),
        roles=_END,
        only={"extra_vocab_file": (None,), "errors": ("replace",)},
    ),
    "glm4": TokenizerClass(
        ("ChatGLM4Tokenizer",),
        RANKS,
        pattern=f"{_LETTERS}|\\p{{N}}{{1,3}}|{_REST}",
        after=("<|endoftext|>", *_GLM_MARKS, "<sop>", "<eop>", *_ROLES, *_MEDIA),
        listed=True,  # its first code had these tokens, its later one takes what the config has
        roles=_END,
        prefix=("[gMASK]", "<sop>"),
    ),
    "chatglm2": TokenizerClass(
        ("ChatGLMTokenizer",),
        PIECES,
        after=(*_GLM_MARKS, "sop", "eop"),
        roles=_GLM_ENDS,
        fixed=True,
        prefix=("[gMASK]", "sop"),
    ),
    "chatglm3": TokenizerClass(
        ("ChatGLMTokenizer",),
        PIECES,
        after=(*_GLM_MARKS, "sop", "eop", *_ROLES),
        roles=_GLM_ENDS,
        fixed=True,
        prefix=("[gMASK]", "sop"),
    ),
    "internlm2": TokenizerClass(("InternLM2Tokenizer",), PIECES, add_bos=True),
    "baichuan": TokenizerClass(("BaichuanTokenizer", "BaiChuanTokenizer"), PIECES, add_bos=True),
    "llama": TokenizerClass(
        ("LlamaTokenizer", "LlamaTokenizerFast"),
        PIECES,
        add_bos=True,
        only={"legacy": (True, None), "add_prefix_space": (True, None)},
    ),
    "bloom": TokenizerClass(
        ("BloomTokenizerFast", "BloomTokenizer"),
        MERGES,
        "vocab.json",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        roles={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        only={"add_prefix_space": (False,)},
    ),
}
# settings that change token ids or texts, and what of them a tokenizer.json of these classes does anyhow
_ONLY: dict[str, tuple[Any, ...]] = {
    "do_lower_case": (False,),
    "remove_space": (False,),
    "split_special_tokens": (False,),
    "sp_model_kwargs": (None, {}),
    "encode_special_tokens": (False,),
}


def _is_length(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_side(value: Any) -> bool:
    return value in ("left", "right")


def _is_template(value: Any) -> bool:
    """Jinja's text, or several under names: as an object, or as transformers writes them."""
    if isinstance(value, list):
        named = [one if isinstance(one, dict) else {} for one in value]
        return all(isinstance(one.get(key), str) for one in named for key in ("name", "template"))
    return value is None or isinstance(value, str | dict)


# what transformers reads of settings that are kept as they are, which it does not check, or not by their names
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model_max_length": (_is_length, "a number of tokens"),
    "padding_side": (_is_side, '"left" or "right"'),
    "truncation_side": (_is_side, '"left" or "right"'),
    "chat_template": (_is_template, 'a text, or a list of objects with "name" and "template"'),
}


def _by_itself(folder: Path) -> str:
    """What to do where the class may be a LLaMA's in all but its name, as those of InternLM and Yi are."""
    model = folder / "tokenizer.model"
    return f"; if {model} holds all of its tokens, training reads that file as it is" if model.is_file() else ""


def family_of(folder: Path, config: Mapping[str, Any], added: Mapping[int, AddedToken], named: str | None) -> str:
    """The family of the tokenizer in `folder`, as its tokenizer_config.json tells it, or, where that leaves it open,
    as the caller `named` it."""
    found = _told(folder, config)
    fitting = [name for name, row in FAMILIES.items() if found in row.classes]
    if not fitting:
        known = [name for row in FAMILIES.values() for name in row.classes]
        raise UserError(
            f"{folder / CONFIG}: tokenizer_class {shown(found)}{closest(found, known)} is none that is known here: "
            f"{', '.join(dict.fromkeys(known))}{_by_itself(folder)}"
        )
    if named in fitting:
        return named
    if named:
        raise UserError(
            f"{folder / CONFIG}: its tokenizer_class {found} is that of {' and '.join(fitting)}, not {named}"
        )
    if len(fitting) > 1:
        return _glm(folder, config, added)
    return fitting[0]


def _told(folder: Path, config: Mapping[str, Any]) -> str:
    found = config.get("tokenizer_class")
    if not isinstance(found, str) or not found:
        raise UserError(f"{folder / CONFIG}: names no tokenizer_class, which says how the vocabulary is read: add it")
    return found


def _glm(folder: Path, config: Mapping[str, Any], added: Mapping[int, AddedToken]) -> str:
    """Which ChatGLM: both call their class the same, and one has tokens for roles."""
    told = str(config.get("name_or_path", "")).lower()
    named = [name for name in ("chatglm2", "chatglm3") if name in told]
    if any(token.text in _ROLES for token in added.values()):
        named = ["chatglm3"]
    if len(named) != 1:
        raise UserError(
            f"{folder / CONFIG}: tokenizer_class ChatGLMTokenizer is that of ChatGLM2, and of ChatGLM3, which has "
            f"tokens for roles: say which: {command('tokenizer-json')} --family chatglm2, or chatglm3"
        )
    return named[0]


def check_settings(folder: Path, config: Mapping[str, Any], row: TokenizerClass) -> None:
    """UserError that names a setting of tokenizer_config.json which would have another effect than what is written."""
    for name, (fits, must) in _KINDS.items():
        if name in config and not fits(config[name]):
            raise UserError(f"{folder / CONFIG}: {name} is {shown(config[name])}, and must be {must}")
    for name, fine in {**_ONLY, **row.only}.items():
        if name in config and config[name] not in fine:
            raise UserError(
                f"{folder / CONFIG}: {name} is {shown(config[name])}, which the tokenizer.json that is written here "
                "does not do: remove it if that makes no difference to the model"
            )
