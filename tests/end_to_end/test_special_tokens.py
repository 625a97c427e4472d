"""Text that spells special tokens, from the records to the rows and the dry run."""

import numpy as np
import pytest

from fm9g.data.stream.loader import Plan
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.tokens.tokenizer import load_tokenizer
from tests.support.corpora import open_stream
from tests.support.places import Place, index
from tests.support.runs_here import command_here
from tests.support.tiny_tokenizers import KINDS

STRIKE = [{"input": "", "output": f"the <s>tiny</s> model {i}"} for i in range(20)]
TRANSFORM = 'def transform(data, n, r):\n    return {"input": "<|im_end|>", "output": data["q"] + "</s>"}\n'


@pytest.fixture
def own(tmp_path):
    """Records with spellings in them, and a Unigram that finds these in text."""
    (tmp_path / "turn.py").write_text(TRANSFORM)
    index(tmp_path / "strike", STRIKE)
    index(tmp_path / "turns", [{"q": "hello"}] * 9 + [{"q": "what is </s>"}])
    KINDS["unigram"](tmp_path / "unigram")
    return Place(tmp_path)


def rows(own, mixture):
    stream = open_stream(Plan(1, 256, 1, 1), read_mixture(mixture), own.root / "unigram", range(1))
    (strip,) = stream.step(0).strips
    return strip.tokens.numpy(), strip.lengths


def test_text_ends_no_document(own):
    tokenizer = load_tokenizer(own.root / "unigram")
    tokens, lengths = rows(own, own.write_mixture("m", [{"path": "strike", "abs_weight": 1}]))
    starts = np.cumsum([0, *lengths[:-1]])
    assert len(starts) > 3
    # the last token of a whole document is a target only: no place of the row holds an EOS
    assert tokenizer.eos_id not in tokens
    assert np.flatnonzero(tokens == tokenizer.bos_id).tolist() == starts[tokens[starts] == tokenizer.bos_id].tolist()


def test_the_dry_run_counts_what_became_of_spellings(place, own, tmp_path):
    entries = [
        {"path": "strike", "abs_weight": 1},
        {"path": "turns", "abs_weight": 1, "transforms": "turn.py"},
        {"path": "turns", "task_name": "off", "abs_weight": 1, "transforms": "turn.py", "special_tokens": False},
    ]
    mixture = own.write_mixture("m", entries)
    words = place.words(tmp_path / "out", dry_run=1, dataset_config=mixture, tokenizer_path=own.root / "unigram")
    result = command_here(words)
    assert result.returncode == 0
    found = [line.strip() for line in result.output.splitlines() if "special tokens spelled" in line]
    assert found == [
        "special tokens spelled in 20 sampled records: 40 are plain text, 0 are tokens (special_tokens false)",
        "special tokens spelled in 10 sampled records: 2 are plain text, 19 are tokens (special_tokens true)",
        "special tokens spelled in 10 sampled records: 21 are plain text, 0 are tokens (special_tokens false)",
    ]


def test_the_dry_run_says_nothing_of_what_is_not_there(place, tmp_path):
    assert "special tokens spelled" not in command_here(place.words(tmp_path, dry_run=1)).output
