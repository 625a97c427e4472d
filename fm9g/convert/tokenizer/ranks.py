"""Vocabularies in the form of tiktoken: a token in base64 and its rank, which is its id, a line.

Such an encoder joins, of all neighbours whose union is a token, the two with the lowest rank, the leftmost first,
until there are none. BPE in tokenizer.json joins the pairs of a list, in its order. One pair a token is enough: what is
joined inside the bytes of a token before these are whole does not depend on what stands around them (a union across
their ends would have been the end of that token there). So the two parts that they are joined from are always those
that the token's bytes alone come to. A token whose bytes alone get stuck before is made by no merge; it is found where
it is a whole piece of text, which both look up first.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

from fm9g.errors import UserError, shown
from fm9g.files import require_file
from fm9g.progress_bar import ProgressBar

_LONGEST = 1 << 12  # bytes of a token: the time that its merges take grows with the square of them


def read_ranks(path: Path) -> list[bytes]:
    """The tokens by rank; UserError, with the line where there is one, for a file that is not of all ranks from 0 on,
    of tokens that differ, with every byte among them."""
    lines: dict[int, int] = {}
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(require_file(path).read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        token, rank = _entry(where, line)
        if rank in lines:
            raise UserError(f"{where}: rank {rank} is that of line {lines[rank]}, too")
        if token in tokens:
            raise UserError(f"{where}: the token {shown(token)} is that of line {lines[tokens[token]]}, too")
        lines[rank], tokens[token] = number, rank
    gap = next((rank for rank in range(len(lines)) if rank not in lines), None)
    if gap is not None:
        raise UserError(f"{path}: no line has rank {gap}, but {len(lines)} tokens have ranks up to {max(lines)}")
    lacking = next((byte for byte in range(256) if bytes([byte]) not in tokens), None)
    if lacking is not None:
        raise UserError(f"{path}: no token is the byte 0x{lacking:02X}: text that has it could not be spelled")
    return sorted(tokens, key=lambda token: tokens[token])


def _entry(where: str, line: bytes) -> tuple[bytes, int]:
    words = line.split()
    if len(words) != 2 or not words[1].isdigit() or len(words[1]) > 10:
        raise UserError(f"{where}: {shown(line)} is not a token in base64 and its rank")
    try:
        token = base64.b64decode(words[0], validate=True)
    except binascii.Error as error:
        raise UserError(f"{where}: {shown(words[0])} is not base64 ({error})") from None
    if not 0 < len(token) <= _LONGEST:
        raise UserError(f"{where}: a token of {len(token)} bytes; there may be 1 to {_LONGEST}")
    return token, int(words[1])


def merges_of(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The two parts of each token that is made by a merge, in the order of ranks."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    with ProgressBar("merges", len(tokens), unit="tokens") as bar:
        found = []
        for rank, token in enumerate(tokens):
            pair = _parts(token, ranks)
            if pair:
                found.append(pair)
            if rank % 1000 == 0:
                bar(rank, len(tokens))
    return found


def _parts(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The last two parts that the bytes of `token` are joined to before they are whole."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        best = None
        for place in range(len(parts) - 1):
            rank = ranks.get(parts[place] + parts[place + 1])
            if rank is not None and (best is None or rank < best[0]):
                best = rank, place
        if best is None:
            return None
        parts[best[1] : best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
