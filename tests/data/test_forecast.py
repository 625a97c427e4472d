"""When the datasets of a mixture will have been read."""

from types import SimpleNamespace

import numpy as np
import pytest

from fm9g.data.document import Document, Skip
from fm9g.data.forecast import describe, endings, tokens_per_document


def line(name, share, records, epochs, size=10):
    source = SimpleNamespace(task_name=name, share=share, epochs=epochs)
    document = Document(0, np.arange(size + 1), 1, True)
    end = np.inf if epochs is None else epochs * records
    return SimpleNamespace(source=source, records=records, end=end, document=lambda position: document)


def test_the_mean_counts_records_that_give_nothing():
    documents = [Document(0, np.arange(31), 1, True), Skip(1, "it is empty")]
    assert tokens_per_document(SimpleNamespace(records=2, document=lambda position: documents[position])) == 15


def test_a_dataset_ends_when_its_tokens_are_read():
    lines = [line("a", 0.25, 1000, 1.0), line("b", 0.75, 10, None)]
    (ending,) = endings(lines, 100, [0, 0], 0)
    assert (ending.task_name, ending.tokens) == ("a", 10_000)
    assert ending.step == pytest.approx(400)
    (ending,) = endings(lines, 100, [500, 7], 50)  # half of it is left
    assert ending.step == pytest.approx(50 + 200)


def test_the_others_go_faster_after_one_has_ended():
    lines = [line("a", 0.5, 100, 1.0), line("b", 0.5, 100, 3.0), line("off", 0.0, 5, 1.0)]
    first, second = endings(lines, 100, [0, 0, 0], 0)
    assert (first.task_name, first.step) == ("a", pytest.approx(20))
    assert (second.task_name, second.step) == ("b", pytest.approx(20 + 20))  # 2,000 of its 3,000 tokens were left


def test_what_is_said():
    found = endings([line("a", 0.5, 100, 1.0), line("b", 0.5, 100, 3.0)], 100, [0, 0], 0)
    assert describe(found, 15, True, False) == []
    (said,) = describe(found, 30, True, False)
    assert said == "dataset 'a' ends at about step 20 of 30 (about 1,000 tokens are left of it)"
    assert describe(found, 50, True, False)[-1].endswith("the run fails there, unless stop_when_end=1")
    assert describe(found, 50, True, True)[-1].endswith("the run ends there")
    assert len(describe(found, 50, False, False)) == 2  # another one repeats for ever
