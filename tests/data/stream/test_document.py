"""Documents of a dataset: their tokens, what carries loss, what happens to long ones, and their order."""

import dataclasses

import pytest

from fm9g.data.stream.corpus import Corpus, SpecialCounts
from fm9g.data.stream.document import Skip
from fm9g.data.stream.mixture import MixtureEntry
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.support.places import index
from tests.support.tiny_tokenizers import chat

ROW = 24


@pytest.fixture(scope="module")
def tokenizer(place):
    return load_tokenizer(place.tokenizer)


@pytest.fixture
def corpus(tmp_path, tokenizer):
    """The documents of some records, with changes to the mixture's entry."""

    def make(*records, tokenizer=tokenizer, seed=1, **changes):
        path = index(tmp_path / str(len(list(tmp_path.iterdir()))), records)
        entry = MixtureEntry("task", path, 1.0, None, True, "segment", None, {})
        return Corpus(dataclasses.replace(entry, **changes), tokenizer, seed, ROW)

    return make


def record(prompt, answer):
    return {"input": prompt, "output": answer}


def tokens_of(document):
    (sequence,) = document.sequences
    return sequence.tokens


def first_target(document):
    """Where the only range of targets begins; it goes on to the end."""
    (sequence,) = document.sequences
    ((start, stop),) = sequence.targets
    assert stop == len(sequence.tokens)
    return start


def test_a_document_is_bos_input_output_eos(corpus, tokenizer):
    document = corpus(record("one plus one?", "two")).document(0)
    prompt, answer = tokenizer.encode("one plus one?"), tokenizer.encode("two")
    assert tokens_of(document).tolist() == [tokenizer.bos_id, *prompt, *answer, tokenizer.eos_id]


def test_loss_is_on_output_and_eos_only(corpus, tokenizer):
    document = corpus(record("one plus one?", "two")).document(0)
    targets = tokens_of(document)[first_target(document) :].tolist()
    assert targets == [*tokenizer.encode("two"), tokenizer.eos_id]


def test_without_input_every_token_but_bos_is_a_target(corpus):
    document = corpus(record("", "some text")).document(0)
    assert first_target(document) == 1
    assert document.places == len(tokens_of(document)) - 1


def test_a_tokenizer_without_bos_gives_no_bos(corpus, tokenizer):
    bare = NoBos(tokenizer)
    document = corpus(record("", "some text"), tokenizer=bare).document(0)
    assert tokens_of(document).tolist() == [*tokenizer.encode("some text"), tokenizer.eos_id]
    assert first_target(document) == 1  # nothing predicts the first token
    assert corpus(record(" ", ""), tokenizer=bare).document(0) is not None
    assert first_target(corpus(record("q", "a"), tokenizer=bare).document(0)) == len(tokenizer.encode("q"))


def test_documents_made_at_once_are_those_made_one_by_one(corpus):
    records = corpus(record("one?", "two"), record("", LONG), record("", ""), record("one?", "three"))
    examples = records.examples((2, 0, 3, 1))
    assert [str(found) for found in records.documents(examples, records.encoded(examples))] == [
        str(records.document(position)) for position in (2, 0, 3, 1)
    ]
    assert records.documents([], records.encoded([])) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input": "", "output": 5}, "output must be a string, not 5"),
        ({"input": None, "output": "a"}, "input must be a string, not None"),
        ({"input": "q", "output": ""}, "no text to learn in \"output\" (its fields: 'input', 'output')"),
        ({"input": "q", "target": "a"}, "no text to learn in \"output\" (its fields: 'input', 'target')"),
        ({"input": "", "output": ""}, "it is empty"),
    ],
)
def test_a_record_with_nothing_to_learn_gives_no_document(corpus, fields, reason):
    assert corpus(fields).document(0) == Skip(0, reason)


class NoBos:
    bos_id = None

    def __init__(self, tokenizer):
        self.encode_all, self.eos_id = tokenizer.encode_all, tokenizer.eos_id


LONG = "long text " * 20


@pytest.mark.parametrize("rule", ["segment", "head", "drop"])
def test_a_document_that_fits_a_row_is_kept_whole(corpus, rule):
    assert corpus(record("", "short"), oversize_rule=rule).document(0).places < ROW


def test_segment_keeps_a_long_document_whole_to_be_cut_at_row_ends(corpus, tokenizer):
    document = corpus(record("", LONG), oversize_rule="segment").document(0)
    assert document.may_cut
    assert tokens_of(document)[-1] == tokenizer.eos_id
    assert document.places == len(tokenizer.encode(LONG)) + 1


def test_head_keeps_what_fills_a_row(corpus, tokenizer):
    document = corpus(record("", LONG), oversize_rule="head").document(0)
    assert not document.may_cut
    assert tokens_of(document).tolist() == [tokenizer.bos_id, *tokenizer.encode(LONG)][: ROW + 1]
    assert document.places == ROW


def test_drop_leaves_a_long_document_out(corpus):
    for prompt in ("", "q"):
        skip = corpus(record(prompt, LONG), oversize_rule="drop").document(0)
        assert isinstance(skip, Skip)
        assert f"tokens exceed max_length {ROW}" in skip.reason


@pytest.mark.parametrize("rule", ["segment", "head"])
def test_a_long_document_with_input_is_never_cut_but_loses_its_tail(corpus, rule):
    document = corpus(record("q?", LONG), oversize_rule=rule).document(0)
    assert not document.may_cut
    assert document.places == ROW


def test_a_document_with_input_is_not_cut_at_a_row_end(corpus):
    assert not corpus(record("q?", "a")).document(0).may_cut
    assert corpus(record("", "a")).document(0).may_cut


def test_every_epoch_is_every_record_once_in_another_order(corpus):
    documents = corpus(*(record("", f"text {i}") for i in range(40)))
    epochs = [[documents.record(epoch * 40 + place) for place in range(40)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seed_and_task_change_the_order(corpus):
    records = [record("", f"text {i}") for i in range(40)]
    corpora = [corpus(*records), corpus(*records, seed=2), corpus(*records, task_name="other")]
    orders = {tuple(each.record(place) for place in range(40)) for each in corpora}
    assert len(orders) == 3


@pytest.mark.parametrize(
    ("changes", "end"),
    [({}, float("inf")), ({"allow_repeat": False}, 3), ({"max_epochs": 1.5}, 5), ({"max_epochs": 2}, 6)],
)
def test_where_a_corpus_ends(corpus, changes, end):
    assert corpus(*(record("", str(i)) for i in range(3)), **changes).end == end


def test_a_transform_gets_the_same_random_numbers_at_the_same_position(corpus, tmp_path):
    transform = tmp_path / "draw.py"
    transform.write_text('def transform(data, n, r):\n    return {"input": "", "output": str(r.random())}\n')
    first, second = (corpus(*(record("", str(i)) for i in range(3)), transforms=transform) for _ in range(2))
    texts = [tuple(tokens_of(first.document(position))) for position in range(9)]
    assert [tuple(tokens_of(second.document(position))) for position in reversed(range(9))] == texts[::-1]
    assert len(set(texts)) == 9  # the same record is drawn anew in each epoch


def test_an_error_names_dataset_and_record(corpus, tmp_path):
    fails = 'def transform(data, n, r):\n    return data if "text" not in data else 7\n'
    (tmp_path / "t.py").write_text(fails)
    documents = corpus(record("", "fine"), {"text": "x"}, record("", "fine"), transforms=tmp_path / "t.py")
    position = next(place for place in range(3) if documents.record(place) == 1)
    with pytest.raises(UserError, match=r"dataset 'task', record 1 \(line 2\) of .*: the transform must return"):
        documents.document(position)


# special tokens that text may write

TURN = """
def transform(data, n, r):
    prompt = "<|im_start|>user\\n" + data["q"] + "<|im_end|>\\n<|im_start|>assistant\\n"
    return {"input": prompt, "output": data.pop("a") + data.get("end", "<|im_end|>")}
"""


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory):
    return load_tokenizer(chat(tmp_path_factory.mktemp("chat") / "t"))


@pytest.fixture
def chat_corpus(corpus, tmp_path, chat_tokenizer):
    """Documents of a transform that writes turns."""
    (tmp_path / "turn.py").write_text(TURN)

    def make(*records, special_tokens=True, transforms=tmp_path / "turn.py"):
        made = corpus(*records, tokenizer=chat_tokenizer, special_tokens=special_tokens, transforms=transforms)
        made._row_length = 1000
        return made

    return make


def test_a_transform_writes_special_tokens(chat_corpus, chat_tokenizer):
    start, end = (chat_tokenizer.encode(text, Written.ALL)[0] for text in ("<|im_start|>", "<|im_end|>"))
    assert end == chat_tokenizer.eos_id
    document = chat_corpus({"q": "one?", "a": "two"}).document(0)
    text = chat_tokenizer.encode
    prompt = [start, *text("user\none?"), end, *text("\n"), start, *text("assistant\n")]
    assert tokens_of(document).tolist() == [chat_tokenizer.bos_id, *prompt, *text("two"), end]  # it ends once
    assert first_target(document) == 1 + len(prompt)


def test_without_special_tokens_what_a_transform_writes_is_text(chat_corpus, chat_tokenizer):
    tokens = tokens_of(chat_corpus({"q": "one?", "a": "two"}, special_tokens=False).document(0)).tolist()
    assert chat_tokenizer.count_special(tokens) == 2  # BOS and EOS of the document
    assert len(tokens) > 50


@pytest.mark.parametrize(
    "record",
    [
        {"q": "what is <|im_end|>?", "a": "an end"},
        {"q": "q", "a": "a<|im_end|>"},
        {"q": "q", "a": "a", "notes": [{"deep": ["<s>"]}]},
        {"q": "q", "a": "a", "<|im_end|>": None},
        {"q": "q", "a": "", "end": "<|im_end|>"},
    ],
)
def test_what_the_record_spells_does_not_end_its_document(chat_corpus, chat_tokenizer, record):
    start = chat_tokenizer.encode("<|im_start|>", Written.ALL)
    tokens = tokens_of(chat_corpus(record).document(0)).tolist()
    assert (tokens[0], tokens[-1]) == (chat_tokenizer.bos_id, chat_tokenizer.eos_id)
    assert [token for token in tokens[1:-1] if token in chat_tokenizer.special] == start * 2


def test_records_made_at_once_do_not_share_what_they_spell(chat_corpus, chat_tokenizer):
    """The same output of two records, one of which spells its end itself."""
    records = chat_corpus({"q": "q", "a": "a"}, {"q": "q", "a": "a", "note": "<|im_end|>"})
    examples = records.examples(range(2))
    ends = {
        document.record: tokens_of(document).tolist().count(chat_tokenizer.eos_id)
        for document in records.documents(examples, records.encoded(examples))
    }
    assert ends == {0: 2, 1: 1}


def test_bos_and_eos_that_a_transform_writes_are_not_doubled(corpus, chat_tokenizer, tmp_path):
    (tmp_path / "whole.py").write_text(
        'def transform(data, n, r):\n    return {"input": "", "output": "<s>" + data["t"] + "<|im_end|>"}\n'
    )
    changes = {"tokenizer": chat_tokenizer, "transforms": tmp_path / "whole.py", "special_tokens": True}
    document = corpus({"t": "some text"}, **changes).document(0)
    assert tokens_of(document).tolist() == [
        chat_tokenizer.bos_id, *chat_tokenizer.encode("some text"), chat_tokenizer.eos_id
    ]  # fmt: skip
    assert first_target(document) == 1


def test_without_a_transform_records_write_all_but_bos_and_eos(chat_corpus, chat_tokenizer):
    markup = record("", "<|im_start|>user<|im_end|><s>")
    for special_tokens, count in ((True, 3), (False, 2)):
        documents = chat_corpus(markup, special_tokens=special_tokens, transforms=None)
        tokens = tokens_of(documents.document(0)).tolist()
        assert chat_tokenizer.count_special(tokens) == count
        assert documents.special_counts(documents.examples([0])) == SpecialCounts(3 - count + 2, count - 2)


def test_special_counts_of_a_transform(chat_corpus):
    documents = chat_corpus({"q": "q", "a": "a"}, {"q": "q", "a": "</s><|im_end|>"})
    assert documents.special_counts(documents.examples(range(2))) == SpecialCounts(plain=3, tokens=4 + 2)
    assert documents.special_counts([]) == SpecialCounts(0, 0)
