"""Which tokens are special, and copies of a tokenizer.json that text cannot move to give them.

A special token stands for something that is not text: where a document begins and ends, whose turn it is. Special are

    BOS and EOS, whatever the tokenizer's kind;
    added tokens of tokenizer.json that are marked special, there or in tokenizer_config.json;
    what tokenizer_config.json and special_tokens_map.json name (pad_token, additional_special_tokens, …), and the
    other end tokens of config.json;
    added tokens that look like markup: <|im_end|>, <｜User｜>;
    control pieces of sentencepiece.

The token for unknown text is not (text may well be unknown), nor is one character that someone named as padding and
that text cannot do without. All else is vocabulary, as are user-defined pieces of sentencepiece: they are there to be
found in text.

A text gives token ids in two ways: the spelling of an added token is found in it, or the model (BPE, Unigram, …) puts
one together. So in a copy where a token must not come from text, it gets a name that no text holds, in both places, and
keeps its id. Nothing else changes: any other text gives the ids that it gave. (A sentencepiece model does not look for
control pieces.)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

_MARKUP = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)


class Written(Enum):
    """The special tokens that a text may write by their spellings; the others' are plain text."""

    NONE = "none"
    INNER = "all but BOS and EOS"
    ALL = "all"


def _hidden_name() -> str:
    """A name that no text holds: 256 bits of chance."""
    return secrets.token_hex(32)


@dataclass(frozen=True)
class Vocabulary:
    """What the content of a tokenizer.json says of its tokens."""

    spellings: dict[int, str]  # of all ids
    added: dict[int, dict[str, Any]]
    unknown_id: int | None  # what the model gives for unknown text
    drops_unknown: bool  # whether the model can do without: BPE then leaves out what it does not know

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Vocabulary:
        """Of a file that the tokenizers library has read."""
        model = content["model"]
        vocab = model["vocab"]
        if isinstance(vocab, list):  # Unigram: (piece, score)
            spellings, unknown = {i: piece for i, (piece, _) in enumerate(vocab)}, model.get("unk_id")
        else:
            spellings, unknown = {i: piece for piece, i in vocab.items()}, vocab.get(model.get("unk_token"))
        added = {token["id"]: token for token in content.get("added_tokens") or []}
        spellings |= {i: token["content"] for i, token in added.items()}
        return cls(spellings, added, unknown, "merges" in model)

    def special(self, ends: Collection[int | None], named: Collection[int], marked: Collection[str]) -> dict[int, str]:
        """{id: spelling} of the special tokens. `ends`: BOS and EOS; `named`: ids that the files beside name; `marked`:
        added tokens that those call special."""
        found = {id for id, token in self.added.items() if token.get("special") or token["content"] in marked}
        found |= {id for id, token in self.added.items() if _MARKUP.fullmatch(token["content"])} | set(named)
        kept = {id for id in found if id != self.unknown_id and len(self.spellings.get(id, "")) > 1}
        ids = kept | {id for id in ends if id is not None}
        return {id: self.spellings[id] for id in sorted(ids & self.spellings.keys())}


def rewrite(
    content: dict[str, Any], vocabulary: Vocabulary, special: Mapping[int, str], written: Collection[int]
) -> None:
    """Have a tokenizer.json (changed in place) give those of the `special` tokens that are `written`, and no other.

    To be loaded with `encode_special_tokens`, which leaves added tokens that are marked special out of the search.
    """
    hidden = special.keys() - written
    if vocabulary.unknown_id in special:  # GPT-2 calls its end of text unknown, too
        content["model"]["unk_token"] = None
    elif vocabulary.unknown_id in vocabulary.added:  # unknown text is, its spelling is not
        hidden |= {vocabulary.unknown_id}
    names = {vocabulary.spellings[id]: _hidden_name() for id in hidden}
    added = content["added_tokens"] = content.get("added_tokens") or []
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added += [{"id": id, "content": special[id], **flags} for id in special if id not in vocabulary.added]
    for token in added:
        token["special"] = token["content"] in names or (token["special"] and token["id"] not in written)
        token["content"] = names.get(token["content"], token["content"])
    _rename(content["model"], names)


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename pieces of a model; what BPE would have merged into or from one of them it merges no more."""
    if isinstance(model["vocab"], list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        return
    model["vocab"] = {names.get(piece, piece): id for piece, id in model["vocab"].items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        model["merges"] = [merge for merge in model["merges"] if not _involves(merge, prefix, names)]


def _involves(merge: str | list[str], prefix: int, names: Mapping[str, str]) -> bool:
    """Whether a merge is from or into a named piece; `prefix` is the length of what marks a piece inside a word."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in names or right in names or left + right[prefix:] in names
