"""Conversations from a mixture file to the rows of a model, and runs that go on."""

from __future__ import annotations

import json
import re

import pytest

from fm9g.data.chat.render import Learned, Renderer
from fm9g.data.inspect.preview import Preview
from fm9g.data.inspect.preview_text import Style, row_lines, total_lines
from fm9g.data.stream.corpus import open_corpora
from fm9g.data.stream.document import Document
from fm9g.data.stream.loader import Loader, Plan, StepStream
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.strip import IGNORED, PADDING_TASK
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.support.chats import RECORDS, conversation, tokens_and_ranges
from tests.support.jinja_templates import QWEN3
from tests.support.places import index
from tests.support.runs_here import refused_here, train_here
from tests.support.tiny_tokenizers import with_tokens

ROW = 400


@pytest.fixture
def mixture(tmp_path):
    """A mixture file of conversations; `more`: keys of its entry."""

    def write(records=RECORDS, **more):
        entry = {"path": str(index(tmp_path / "chat", records)), "abs_weight": 1, "task_name": "chat", "format": "chat"}
        path = tmp_path / "chat.json"
        path.write_text(json.dumps([{**entry, "template": "belle", "allow_repeat": False, **more}]))
        return path

    return write


def targets_of(strip):
    """(tokens, targets) of each document in a strip."""
    at, found = 0, []
    for length, task in zip(strip.lengths, strip.tasks, strict=True):
        if task != PADDING_TASK:
            found.append((strip.tokens[at : at + length].tolist(), strip.targets[at : at + length].tolist()))
        at += length
    return found


@pytest.mark.parametrize("learned", [Learned(), Learned(mask_history=True), Learned(train_on_prompt=True)])
def test_every_conversation_is_in_a_row_with_its_answers_as_targets(mixture, place, learned):
    tokenizer, plan = load_tokenizer(place.tokenizer), Plan(1, ROW, 1, 1)
    corpora = open_corpora(read_mixture(mixture()), tokenizer, plan.seed, plan.row_length, learned)
    loader = Loader(StepStream(plan, corpora, range(200), {}, Prefetcher(1, 0)), 0, 1)
    batches = list(loader)
    assert loader.exhausted and not any(batch.skipped for batch in batches)
    renderer, expected = Renderer("belle", tokenizer, learned), []
    for record in RECORDS:
        tokens, ranges = tokens_and_ranges(renderer, record)
        targets, at = [IGNORED] * len(tokens), 0
        for found in ranges:
            at = next(i for i in range(at, len(tokens)) if tokens[i : i + len(found)] == found)
            targets[at : at + len(found)] = found
        expected.append((tokens[:-1], targets[1:]))
    assert sorted(document for batch in batches for document in targets_of(batch.strips[0])) == sorted(expected)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"template": ""}, 'format chat needs a template: a name of chat_templates/, a path, or "tokenizer"'),
        ({"format": "text"}, "a template is for conversations: format must be chat, not text"),
        ({"template": "bele"}, "template 'bele': .*'belle'"),
        ({"template": "own.json"}, "template '.*own.*: .*own.json: no such file"),
        ({"template": "llama3"}, "has no token '<.*>'"),
        ({"template": "tokenizer"}, "has no chat template"),
        ({"transforms": "t.py"}, "transforms make text of records, so format must be text, not chat"),
    ],
)
def test_a_wrong_template_is_refused_before_anything_is_read(mixture, place, keys, says):
    tokenizer = load_tokenizer(place.tokenizer)
    with pytest.raises(UserError, match=says):
        open_corpora(read_mixture(mixture(**keys)), tokenizer, 1, ROW)


def test_answers_that_end_in_no_token_are_a_warning(mixture, place, tmp_path, capsys):
    (tmp_path / "own.json").write_text('{"user": ["Q: ", "{content}"], "assistant": ["{content}", "\\n"]}')
    for template in ("own.json", "belle"):
        (corpus,) = open_corpora(read_mixture(mixture(template=template)), load_tokenizer(place.tokenizer), 1, ROW)
        corpus.check_texts()
        assert ("answers end in no token with the template" in capsys.readouterr().err) == (template == "own.json")


def test_a_template_may_lie_beside_the_mixture(mixture, place, tmp_path):
    (tmp_path / "own.json").write_text('{"user": ["Q: ", "{content}"], "assistant": ["{content}", {"token": "eos"}]}')
    (corpus,) = open_corpora(read_mixture(mixture(template="own.json")), load_tokenizer(place.tokenizer), 1, ROW)
    made = corpus.document(0)
    assert isinstance(made, Document) and made.sequences[0].targets


@pytest.fixture
def thinking(tmp_path):
    """A tokenizer whose template leaves thoughts out of all answers but the last, and 8 conversations with three."""
    records = [conversation(3, number) for number in range(8)]
    for record in records:
        for turn in record["conversations"][1::2]:
            turn["value"] = f"<think>hm</think>{turn['value']}"
    jinja = {"chat_template": QWEN3, "eos_token": "<|im_end|>"}
    texts = [json.dumps(record, ensure_ascii=False) for record in records]
    return with_tokens(tmp_path / "thinking", ["<|im_start|>", "<|im_end|>"], texts, **jinja), records


def test_a_preview_says_what_a_template_leaves_out(mixture, thinking):
    folder, records = thinking
    tokenizer, entries = load_tokenizer(folder), read_mixture(mixture(records, template="tokenizer"))
    shown = Preview(open_corpora(entries, tokenizer, 1, ROW), tokenizer, Plan(1, ROW, 1, 1), 100)
    list(shown)
    assert shown.ended
    assert total_lines(shown.totals, entries)[-1] == "chat: the template leaves something out of 16 answers"


def test_a_preview_shows_the_weights_of_what_is_learned(mixture, place):
    records = [conversation(4), conversation(4), conversation(1)]
    for turn, weight in zip(records[0]["conversations"][1::2], (1, 0.5, 0.5, 2), strict=True):
        turn["weight"] = weight
    for turn, weight in zip(records[1]["conversations"][1::2], (0.25, 0.5, 1, 4), strict=True):
        turn["weight"] = weight
    tokenizer, entries = load_tokenizer(place.tokenizer), read_mixture(mixture(records))
    shown = Preview(open_corpora(entries, tokenizer, 1, ROW), tokenizer, Plan(1, ROW, 1, 1), 100)
    lines = [line for rows in shown for row in rows for line in row_lines(row, ROW, entries, Style(False, False))]
    ends = {line.partition("record ")[2][0]: line.partition(" with loss")[2] for line in lines if ", record " in line}
    assert ends == {"0": " of weight 0.5, 1, 2", "1": " of weights 0.25 to 4", "2": ""}


@pytest.mark.usefixtures("single_rank")
class TestRuns:
    """Whole runs on conversations."""

    @pytest.fixture
    def options(self, mixture):
        """Settings of a run on conversations."""
        path = mixture([*RECORDS, {"conversations": [{"from": "human", "value": "hm"}]}], allow_repeat=True)
        return {"dataset_config": path, "max_length": 128, "train_iters": 4, "save_iters": 2}

    def test_a_resumed_run_goes_on_bit_for_bit(self, options, place, tmp_path):
        whole = train_here(place, tmp_path / "whole", **options)
        train_here(place, tmp_path / "half", **options | {"train_iters": 2})
        rest = train_here(place, tmp_path / "half", **options, resume_ckpt="latest")
        assert rest.losses() == whole.losses()

    def test_a_run_of_data_alone_says_what_a_template_leaves_out(self, place, tmp_path, mixture, thinking):
        folder, records = thinking
        data = {"dataset_config": mixture(records, template="tokenizer"), "only_run_dataloader": 1, "max_length": ROW}
        model = {"config": place.write_model("wide", vocab_size=640, max_length=ROW), "tokenizer_path": folder}
        run = train_here(place, tmp_path / "out", **data, **model, train_iters=100, stop_when_end=1)
        assert re.search(r"\(8 documents, .* learned, the template leaves something out of 16 answers\)", run.log)
        mixture(records, template="chatml")
        run = train_here(place, tmp_path / "whole", **data, **model, train_iters=100, stop_when_end=1)
        assert "(8 documents, " in run.log and "leaves something out" not in run.log

    def test_what_is_no_conversation_is_named_and_counted(self, options, place, tmp_path):
        run = train_here(place, tmp_path / "out", **options | {"train_iters": 6, "batch_size": 4})
        assert (
            "dataset 'chat': records are left out, record 32 (line 33): is a conversation without an answer" in run.log
        )

    def test_other_rules_of_learning_are_refused(self, options, place, tmp_path, mixture):
        train_here(place, tmp_path / "out", **options | {"train_iters": 2})
        again = {**options, "resume_ckpt": "latest"}
        message = refused_here(place, tmp_path / "out", **again, mask_history=1)
        assert "dataset 'chat': mask_history was false when the checkpoint was made and is true now" in message
        mixture([*RECORDS, {"conversations": [{"from": "human", "value": "hm"}]}], allow_repeat=True, template="ziya")
        assert "dataset 'chat': template was" in refused_here(place, tmp_path / "out", **again)
        assert train_here(place, tmp_path / "out", **again, accept_changed_data=1).losses()

    def test_all_and_a_part_cannot_both_be_learned(self, options, place, tmp_path):
        message = refused_here(place, tmp_path / "out", **options, mask_history=1, train_on_prompt=1)
        assert "train_on_prompt learns everything, mask_history the last answer alone" in message

    def test_a_dataset_of_something_else_is_refused_at_the_start(self, place, tmp_path, mixture):
        path = mixture([{"text": "no conversation"}] * 3)
        message = refused_here(place, tmp_path / "out", dataset_config=path, max_length=128, train_iters=4)
        assert "record 0 (line 1): is no conversation (its fields: 'text'); none of 3 records" in message
