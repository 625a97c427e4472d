"""Text in, text out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fm9g.errors import UserError
from fm9g.generation.sampling import Sampling
from fm9g.serve.source import find_source
from fm9g.serve.text_model import LENGTH, STOP, Request, TextModel, load
from tests.serve.conftest import TEMPLATE, Forms
from tests.support.chats import RECORDS

ASKED = [{"conversations": record["conversations"][:1]} for record in RECORDS[:9]]


@pytest.fixture(scope="module")
def model(forms: Forms) -> Iterator[TextModel]:
    with load(find_source(forms.folder, None), None, TEMPLATE, None) as model:
        yield model


def finishes(model: TextModel, prompts: list[list[int]], request: Request, chat: bool = True) -> list[str]:
    found = [""] * len(prompts)
    for step in model.generate(prompts, request, chat):
        for piece in step:
            assert not found[piece.row]
            found[piece.row] = piece.finish
    return found


def test_answers_do_not_depend_on_what_is_asked_beside(model: TextModel) -> None:
    prompts = [model.chat_prompt(record) for record in ASKED]
    together = model.answers(prompts, Request(30), True)
    assert together == [model.answers([prompt], Request(30), True)[0] for prompt in prompts]
    assert model.answers(prompts, Request(30, num_beams=2), True) == [
        model.answers([prompt], Request(30, num_beams=2), True)[0] for prompt in prompts
    ]


def test_a_row_says_why_it_ended(model: TextModel) -> None:
    prompts = [model.chat_prompt(record) for record in ASKED]
    whole, text = finishes(model, prompts, Request(30)), model.answers(prompts, Request(30), True)
    assert set(whole) == {STOP}
    assert set(finishes(model, prompts, Request(1))) == {LENGTH}
    assert set(finishes(model, prompts, Request(1, num_beams=2))) == {LENGTH}
    word = text[0].split()[1]
    cut = Request(30, stops=(word,))
    assert model.answers(prompts[:1], cut, True)[0] == text[0][: text[0].index(word)].rstrip()
    assert finishes(model, prompts[:1], cut) == [STOP]
    assert model.answers(prompts[:1], Request(30, stops=(word,), num_beams=2), True)[0].count(word) == 0


def test_a_row_ends_where_the_model_does(model: TextModel) -> None:
    prompt = model.text_prompt("word " * 40)
    prompts = [prompt, prompt[:10]]
    steps = list(model.generate(prompts, Request(10_000, Sampling(temperature=100.0)), False))
    given = [sum(piece.row == row for step in steps for piece in step) for row in (0, 1)]
    ended = {piece.row: piece.finish for step in steps for piece in step if piece.finish}
    for row in (0, 1):
        assert given[row] == 256 - len(prompts[row]) or ended[row] == STOP
    with pytest.raises(UserError, match="a prompt of 256 tokens, and the model takes 256 with what follows"):
        model.answers([[5] * 256], Request(), False)


def test_a_text_begins_as_a_document_does(model: TextModel) -> None:
    assert model.text_prompt("a") == [model.tokenizer.bos_id, *model.tokenizer.encode("a")]
    assert model.text_prompt("") == [model.tokenizer.bos_id]


@pytest.mark.parametrize(
    ("request_of", "says"),
    [
        (lambda: Request(0), "max_new_tokens must be at least 1"),
        (lambda: Request(num_beams=0), "num_beams must be at least 1"),
        (lambda: Request(num_beams=2, sampling=Sampling(temperature=1)), "leave temperature at 0"),
        (lambda: Request(sampling=Sampling(top_p=0)), "top_p must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(request_of, says) -> None:
    with pytest.raises(UserError, match=says):
        request_of()
