"""A base's tokenizer with the pieces of a domain's, as a folder that training and transformers read alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from fm9g.commandline import command
from fm9g.convert.tokenizer.check import make_same
from fm9g.convert.tokenizer.files import complete_tokenizer, copy_files, name_ends
from fm9g.data.index.output_folder import output_folder
from fm9g.data.jsonl_records import read_records, record_texts
from fm9g.data.tokens.merging import Merged, merge
from fm9g.data.tokens.pieces import pieces_file
from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer, read_object
from fm9g.errors import UserError, shown
from fm9g.files import write_json

# those beside a vocabulary that stay true of it with more tokens; vocab.json and merges.txt would not
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template*")
_WRITTEN = {
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
}
_NAMED = 5  # pieces that were left out


class Report(NamedTuple):
    """What a merge made of `base` tokens; `lengths`: tokens per character of the sample before and after, if any."""

    base: int
    merged: Merged
    size: int
    lengths: tuple[float, float] | None

    def line(self) -> str:
        """All in one line."""
        made = self.merged
        left = [
            f"{made.had} in the base" if made.had else "",
            f"{made.others} special or single bytes" if made.others else "",
            _named("never in its text", made.never),
            _named("reached by no merges", made.unreached),
        ]
        told = ", ".join(filter(None, left)) or "none"
        steps = f" and {len(made.steps)} steps to them" if made.steps else ""
        text = f"base {self.base} tokens, {len(made.new)} taken{steps}, left out: {told}; now {self.size}"
        if self.lengths is None:
            return text
        return text + "; tokens per character {:.3f}, were {:.3f}".format(*reversed(self.lengths))


def _named(what: str, pieces: list[str]) -> str:
    if not pieces:
        return ""
    listed = " ".join(shown(piece, 20) for piece in pieces[:_NAMED])
    return f"{len(pieces)} {what} ({listed}{' …' if len(pieces) > _NAMED else ''})"


def merge_tokenizers(
    base: Path, domain: Path, target: Path, sample: list[Path] | None = None, overwrite: bool = False
) -> Report:
    """Write the tokenizer `base` with the pieces of `domain` to the folder `target`; each is a sentencepiece .model, or
    a folder with tokenizer.json or tokenizer.model. `sample`: jsonl files whose texts are counted in tokens."""
    for source in (base, domain):
        if target.resolve() in (source.resolve(), source.resolve().parent):
            raise UserError(f"{target}: is where {source.name} is read from; choose another folder to save to")
    with output_folder(target, overwrite, _WRITTEN) as folder:
        return _merge_into(folder, base, domain, target, sample)


def _merge_into(folder: Path, base: Path, domain: Path, target: Path, sample: list[Path] | None) -> Report:
    old = load_tokenizer(base)
    _check_added(old)
    texts = list(record_texts(read_records(sample))) if sample else []
    if sample and not any(texts):
        raise UserError(f'{sample[0]}: no record has text in "input" nor "output"')
    merged = merge(pieces_file(old.path), pieces_file(domain))
    new = _write(old, merged, base, folder)
    make_same(new, folder)
    if base.is_dir() and isinstance(merged.content, dict) and (base / "tokenizer.model").exists():
        print(f"note: {target} has no tokenizer.model: tokenizer.json is what {base} is read from", file=sys.stderr)
    lengths = (_per_character(old, texts), _per_character(new, texts)) if sample else None
    return Report(len(old.spellings), merged, new.vocab_size, lengths)


def _write(old: Tokenizer, merged: Merged, base: Path, folder: Path) -> Tokenizer:
    """Put the merged tokenizer into `folder`; returns it as training reads the file that was merged."""
    if base.is_dir() or old.path.suffix == ".json":
        copy_files(old.path.parent, folder, _BESIDE)
    if isinstance(merged.content, dict):
        write_json(folder / "tokenizer.json", merged.content)
        name_ends(folder, old)
        return load_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(merged.content)
    complete_tokenizer(folder)
    name_ends(folder, old)
    return load_tokenizer(folder / "tokenizer.model")


def _check_added(old: Tokenizer) -> None:
    """Refuse a sentencepiece model beside which other tokens have the ids that new pieces would get."""
    path = old.path.with_name("added_tokens.json")
    if old.path.suffix == ".json" or not path.exists():
        return
    ids = [id for id in read_object(path).values() if isinstance(id, int) and id >= old.vocab_size]
    if ids:
        raise UserError(
            f"{path}: token {ids[0]} stands where new pieces of {old.path.name} would: write a tokenizer.json with all "
            f"of them first: {command('tokenizer-json')} --tokenizer {path.parent} --output DIR"
        )


def _per_character(tokenizer: Tokenizer, texts: list[str]) -> float:
    return sum(map(len, tokenizer.encode_all(texts))) / sum(map(len, texts))
