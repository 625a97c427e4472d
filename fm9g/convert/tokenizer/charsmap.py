"""Sentencepiece's normalization rules ("charsmap") as normalizers of the tokenizers library.

Sentencepiece replaces, from left to right, the longest string that has a rule. The library's `Precompiled` takes
the same file, but looks at whole graphemes: where one of at most five bytes begins with a rule it is replaced whole
(a mark after it vanishes), and in a longer one no rule of two characters is found (か + U+3099 stays two).

So characters are set apart by a separator first, which makes `Precompiled` right for each; then the separators are
taken out inside those sequences that have a rule of their own, and NFC composes these. That equals the rules if each
sequence's value is the composition of its characters' values, which holds for all rules that sentencepiece
ships (NFKC, with and without its "nmt" additions and case folding) and is checked for every rule here.
"""

from __future__ import annotations

import base64
import functools
import itertools
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers

from fm9g.errors import UserError

SEPARATOR = "\U0010fffe"  # a noncharacter; where a text holds it all the same, another one takes its place
_OTHER = "\U0010ffff"
# What may stand in one grapheme with the character before it, besides the characters of the rules themselves
_EXTENDING = r"\p{M}\p{Cf}\n\x{E33}\x{EB3}\x{1F3FB}-\x{1F3FF}"

_LATE = 200  # rules of two or more characters that may each take a normalizer of their own


def replace(pattern: str, content: str, regex: bool = True) -> dict[str, Any]:
    """The normalizer that puts `content` for what matches."""
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


@functools.lru_cache(maxsize=4)
def charsmap_normalizers(charsmap: bytes) -> list[dict[str, Any]]:
    """Normalizers that do what `charsmap` says; UserError where they cannot."""
    rules = _rules(charsmap)
    singles = {source: target for source, target in rules.items() if len(source) == 1}
    sequences = {source: target for source, target in rules.items() if len(source) > 1}
    later = {character for source in sequences for character in source[1:]}
    # the value of "ﬁ" ends in an i, which does not compose with what follows
    apart = [source for source, target in singles.items() if len(target) > 1]
    normalizers = [
        replace(SEPARATOR, _OTHER, regex=False),
        replace(rf"(?!\A)(?=[{_EXTENDING}{_class(later)}])", SEPARATOR),
    ]
    if sequences:
        ends = _class(source for source in apart if singles[source][-1] not in later)
        both = _class(source for source in apart if singles[source][0] in later)
        normalizers += [replace(f"(?<=[{ends}]){SEPARATOR}", SEPARATOR * 2)] if ends else []
        normalizers += [replace(rf"(?!\A)(?=[{both}])", SEPARATOR)] if both else []
    # `Precompiled` ends the process where it removes the first character of a text
    if removed := _class(source for source, target in singles.items() if not target):
        normalizers.append(replace(f"[{removed}]", SEPARATOR))
    normalizers.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    if sequences:
        _check_composition(singles, sequences)
        plain = [source for source in sequences if not any(character in singles for character in source)]
        normalizers.append(replace(_inside(plain), ""))
        # the library's NFC is of an older Unicode than some rules
        composed = tokenizers.normalizers.NFC()
        late = [source for source in plain if composed.normalize_str(source) != sequences[source]]
        if len(late) > _LATE:
            raise UserError(
                f"{len(late)} of its rules, such as {late[0]!r} -> {sequences[late[0]]!r}, are not Unicode's"
            )
        normalizers += [replace(source, sequences[source], regex=False) for source in sorted(late, key=len)[::-1]]
        normalizers.append({"type": "NFC"})
    return [*normalizers, replace(SEPARATOR, "", regex=False)]


def _check_composition(singles: dict[str, str], sequences: dict[str, str]) -> None:
    """Each sequence is composed from its characters' values, and whether there is a rule depends on these alone."""
    spellings: dict[str, int] = defaultdict(lambda: 1)
    for target in singles.values():
        spellings[target] += 1
    expected = 0
    for source, target in sequences.items():
        values = [singles.get(character, character) for character in source]
        if any(len(value) != 1 for value in values) or sequences.get("".join(values)) != target:
            raise UserError(f"the rule {source!r} -> {target!r} does not follow from its characters' own rules")
        if "".join(values) == source:
            count = 1
            for character in source:
                count *= spellings[character]
            expected += count
    if expected != len(sequences):
        raise UserError("of characters with the same value some compose with what follows and others do not")


def _inside(sequences: list[str]) -> str:
    """A regex of the separators between the characters of `sequences`.

    One alternative for each set of first characters, those between, and the set of characters that may follow.
    """
    firsts: dict[tuple[str, str], set[str]] = defaultdict(set)  # of (characters between, character that follows)
    for source in sequences:
        for cut in range(1, len(source)):
            firsts[source[1:cut], source[cut]].add(source[0])
    following: dict[tuple[str, str], set[str]] = defaultdict(set)  # of (class of first characters, those between)
    for (between, follows), found in firsts.items():
        following[_class(found), between].add(follows)
    betweens: dict[tuple[str, str], list[str]] = defaultdict(list)  # of (class of first, class that follows)
    for (first, between), found in following.items():
        betweens[first, _class(found)].append(between)
    parts = []
    for (first, follows), group in betweens.items():
        single = _class(between for between in group if len(between) == 1)
        ways = ["".join(SEPARATOR + character for character in between) for between in group if len(between) != 1]
        ways += [f"{SEPARATOR}[{single}]"] if single else []
        parts += [f"(?<=[{first}]{way}){SEPARATOR}(?=[{follows}])" for way in ways]
    return "|".join(parts)


def _class(characters: Iterable[str]) -> str:
    """The inside of a regex's [...] with these characters, as ranges."""
    codes = sorted({ord(character) for character in characters})
    text = ""
    for _, run in itertools.groupby(enumerate(codes), key=lambda pair: pair[1] - pair[0]):
        span = [code for _, code in run]
        text += f"\\x{{{span[0]:X}}}" + (f"-\\x{{{span[-1]:X}}}" if len(span) > 1 else "")
    return text


def _rules(charsmap: bytes) -> dict[str, str]:
    """What is replaced by what: the file is a Darts-clone double array and the values, each ended by a zero byte."""
    try:
        (size,) = struct.unpack_from("<I", charsmap)
        units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
        values = charsmap[4 + size :]
        return {
            key.decode("utf-8"): values[start : values.index(b"\0", start)].decode("utf-8")
            for key, start in _keys(units)
        }
    except (struct.error, ValueError, IndexError) as error:
        raise UserError(f"its normalization rules are damaged ({error})") from None


def _keys(units: tuple[int, ...]) -> Iterator[tuple[bytes, int]]:
    def base(position: int) -> int:
        unit = units[position]
        return position ^ ((unit >> 10) << ((unit & 0x200) >> 6))

    children: dict[int, list[tuple[int, int]]] = defaultdict(list)  # of the node with this base: label, position
    for position, unit in enumerate(units):
        label = unit & 0xFF
        if label and not unit >> 31:
            children[position ^ label].append((label, position))
    waiting = [(0 ^ base(0), b"")]
    while waiting:
        start, key = waiting.pop()
        for label, position in children.get(start, ()):
            longer, under = key + bytes([label]), base(position)
            if units[position] >> 8 & 1:
                yield longer, units[under] & 0x7FFFFFFF
            waiting.append((under, longer))
