"""The preview of a mixture shows what training reads."""

import re
from itertools import pairwise

import numpy as np
import pytest
import sentencepiece

from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect.preview import Preview, decode_spans
from fm9g.data.inspect.preview_text import Style, row_lines, total_lines
from fm9g.data.stream.corpus import open_corpora
from fm9g.data.stream.loader import Plan
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.strip import IGNORED
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.support.corpora import open_stream
from tests.support.places import Place, index
from tests.support.tiny_tokenizers import chat

ROW = 48


@pytest.fixture
def write_mixture(place, tmp_path):
    """A mixture of one dataset of `place`, in a folder of the test's own."""

    def write(name, **entry):
        return Place(tmp_path).write_mixture(
            "mixture", [{"path": str(place.root / name), "task_name": name, "abs_weight": 1, **entry}]
        )

    return write


def preview(place, steps=3, mixture=None, seed=3, **changes):
    plan = Plan(seed, ROW, **{"batch_size": 1, "grad_accum": 1, **changes})
    return open_preview(mixture or place.mixture, place.tokenizer, plan, steps)


def open_preview(mixture, tokenizer_path, plan, steps):
    tokenizer = load_tokenizer(tokenizer_path)
    corpora = open_corpora(read_mixture(mixture), tokenizer, plan.seed, plan.row_length)
    return Preview(corpora, tokenizer, plan, steps)


def rank_rows(place, plan, step):
    """[(rank, micro, tokens, targets)] of a rank's step, from the loader of training."""
    stream = open_stream(plan, read_mixture(place.mixture), place.tokenizer, range(9), prefetcher=Prefetcher(1, 1))
    for number in range(step + 1):
        batch = stream.step(number)
    for micro, strip in enumerate(batch.strips):
        for i in range(plan.batch_size):
            part = slice(i * ROW, (i + 1) * ROW)
            yield plan.rank, micro, strip.tokens[part].tolist(), strip.targets[part].tolist()


@pytest.mark.parametrize("step", [0, 2])
def test_rows_are_those_of_every_rank(place, step):
    shown = list(preview(place, step + 1, batch_size=2, grad_accum=2, ranks=3))[step]
    assert [row.number for row in shown] == list(range(12))
    entries, tokenizer = read_mixture(place.mixture), load_tokenizer(place.tokenizer)
    for rank in range(3):
        mine = [row for row in shown if row.rank == rank]
        for row, (_, micro, tokens, targets) in zip(
            mine, rank_rows(place, Plan(3, ROW, 2, 2, rank, 3), step), strict=True
        ):
            assert row.micro == micro
            at = 0
            for piece in row.pieces:
                record = IndexedDataset(entries[piece.task].path).record(piece.record)
                text = [*tokenizer.encode(record["input"]), *tokenizer.encode(record["output"])]
                document = [tokenizer.bos_id, *text, tokenizer.eos_id]
                assert document[piece.first : piece.last] == tokens[at : at + piece.last - piece.first]
                assert piece.length == len(document)
                expected = targets[at : at + piece.last - piece.first]
                assert piece.with_loss == sum(target != IGNORED for target in expected)
                at += piece.last - piece.first
            assert at == row.filled
            assert set(targets[at:]) <= {IGNORED}


def test_text_and_loss_mask(place):
    """Spans put together are the text of the record; what is dim is BOS, input, or repeated from the piece before."""
    entries, seen = read_mixture(place.mixture), set()
    for rows in preview(place, 40):
        for piece in rows[0].pieces:
            record = IndexedDataset(entries[piece.task].path).record(piece.record)
            text = "".join(span.text for span in piece.spans)
            if piece.first == 0 and piece.last == piece.length - 1:
                assert text == f"‹BOS›{record['input']}{record['output']}‹EOS›"
                assert [(span.text, span.style) for span in piece.spans] == [
                    (f"‹BOS›{record['input']}", "dim"),
                    (f"{record['output']}‹EOS›", "plain"),
                ]
                seen.add(entries[piece.task].task_name)
            elif piece.first:
                assert [span.style for span in piece.spans] == ["dim", "plain"]
                assert "‹BOS›" not in text
                seen.add("continued")
    assert seen == {"prose", "questions", "continued"}


def test_totals(place):
    shown = preview(place, 60, batch_size=2)
    rows = [row for step in shown for row in step]
    totals = shown.totals
    assert (totals.steps, totals.rows, totals.places) == (60, 120, 120 * ROW)
    assert totals.filled == sum(row.filled for row in rows)
    assert totals.with_loss == sum(piece.with_loss for row in rows for piece in row.pieces)
    assert totals.tokens[0] / totals.filled == pytest.approx(0.7, abs=0.15)
    for task in range(2):
        pieces = [piece for row in rows for piece in row.pieces if piece.task == task]
        assert totals.records[task] == {piece.record for piece in pieces}
        assert totals.documents[task] == sum(piece.first == 0 for piece in pieces)
    lines = "\n".join(total_lines(totals, shown.entries))
    assert "60 steps, 120 rows, 5,760 places" in lines
    assert re.search(r"70\.0% +\d\d\.\d% +[\d,]+ +\d+ +\d+  prose", lines)


def test_it_stops_where_the_datasets_end(place, write_mixture):
    mixture = write_mixture("questions", allow_repeat=False)
    shown = preview(place, 10_000, mixture)
    rows = [row for step in shown for row in step]
    assert shown.ended
    assert len(rows) < 1000
    assert shown.totals.records == [set(range(50))]
    assert shown.totals.documents == [50]
    assert not preview(place, 1).ended


def test_documents_too_long_for_a_row_say_so(place, write_mixture):
    mixture = write_mixture("prose", oversize_rule="head")
    shown = preview(place, 30, mixture)
    pieces = [piece for step in shown for row in step for piece in row.pieces]
    assert {piece.is_head for piece in pieces} == {True, False}
    for piece in pieces:
        assert piece.is_head == (not "".join(span.text for span in piece.spans).endswith("‹EOS›"))


def test_a_transform_of_its_own_chance_is_found_out(place, write_mixture, tmp_path):
    (tmp_path / "dice.py").write_text(
        "import random\n"
        "def transform(data, num_sample, r):\n"
        "    return {'input': '', 'output': str(random.random()) + data['output']}\n"
    )
    mixture = write_mixture("prose", transforms="dice.py")
    with pytest.raises(UserError, match=r"read twice, the rows differ: .*'prose'.* third argument"):
        list(preview(place, 3, mixture))
    (tmp_path / "fair.py").write_text(
        "def transform(data, num_sample, r):\n    return {'input': 'Q', 'output': str(r.random()) + data['output']}\n"
    )
    mixture = write_mixture("questions", transforms="fair.py")
    assert len(list(preview(place, 3, mixture))) == 3


def test_without_colours_bounds_and_loss_can_still_be_read(place):
    shown = preview(place, 12)
    plain, colors = Style(False, False), Style(True, False)
    for rows in shown:
        for row in rows:
            lines = row_lines(row, ROW, shown.entries, plain)
            assert not any("\x1b" in line for line in lines)
            assert len(lines) == 1 + 2 * len(row.pieces) + (row.filled < ROW)
            colored = row_lines(row, ROW, shown.entries, colors)
            without = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in colored]
            assert without == [line.replace("⟦", "").replace("⟧", "") for line in lines]
            for piece, text in zip(row.pieces, lines[2::2], strict=False):
                assert text.strip().startswith("⟦")  # the first token of a piece is no target
                assert text.count("⟦") == sum(span.style == "dim" for span in piece.spans)
            codes = [re.findall(r"(\d+)m", text)[0] for text in colored[2 : 2 + 2 * len(row.pieces) : 2]]
            assert all(a != b for a, b in pairwise(codes))


def test_long_pieces_are_cut_unless_asked_for(tmp_path, place):
    index(tmp_path / "long", [{"input": "", "output": f"{i} " + "ab\n\x1b" * 300} for i in range(20)])
    own = Place(tmp_path)
    mixture = own.write_mixture("m", [{"path": "long", "abs_weight": 1}])
    shown = open_preview(mixture, place.tokenizer, Plan(1, 3000, 1, 1), 1)
    (rows,) = list(shown)
    cut = "\n".join(row_lines(rows[0], 3000, shown.entries, Style(False, False)))
    full = "\n".join(row_lines(rows[0], 3000, shown.entries, Style(False, True)))
    assert re.search(r"\[… [\d,]+ characters …\]", cut)
    assert "characters" not in full
    assert "ab\\n\\x1b" * 300 in full
    assert "\x1b" not in cut + full


def test_decoding_keeps_the_space_between_two_runs(tmp_path):
    text = ["the tiny model reads words and learns to guess which of them comes next"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(tmp_path / "t"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = load_tokenizer(tmp_path / "t.model")
    tokens = [tokenizer.bos_id, *tokenizer.encode("the tiny model"), tokenizer.eos_id]
    for first in range(1, len(tokens) - 1):
        loss = np.arange(len(tokens)) >= first
        spans = decode_spans(tokens, loss.tolist(), tokenizer, True)
        assert "".join(span.text for span in spans) == "‹BOS›the tiny model‹EOS›"
        assert [span.style for span in spans] == ["dim", "plain"]


@pytest.mark.parametrize(("special_tokens", "start"), [(True, "‹<|im_start|>›"), (False, "<|im_start|>")])
def test_a_special_token_looks_other_than_its_spelling(tmp_path, special_tokens, start):
    (tmp_path / "turn.py").write_text(
        'def transform(data, n, r):\n    return {"input": "", "output": "<|im_start|>" + data["t"] + "<|im_end|>"}\n'
    )
    index(tmp_path / "turns", [{"t": f"turn {i}"} for i in range(9)])
    entry = {"path": "turns", "abs_weight": 1, "transforms": "turn.py", "special_tokens": special_tokens}
    mixture = Place(tmp_path).write_mixture("m", [entry])
    (rows,) = list(open_preview(mixture, chat(tmp_path / "t"), Plan(1, 60, 1, 1), 1))
    text = "".join(span.text for span in rows[0].pieces[0].spans)
    assert re.fullmatch(
        rf"‹BOS›{re.escape(start)}turn \d{'' if special_tokens else re.escape('<|im_end|>')}‹EOS›", text
    )
