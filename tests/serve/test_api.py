"""The server, asked by OpenAI's own client."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import uvicorn

from fm9g.serve.api import Server
from fm9g.serve.source import find_source
from fm9g.serve.text_model import Delta, Request, TextModel, load
from fm9g.serve.worker import Busy, Job, Worker
from tests.serve.conftest import TEMPLATE, Forms
from tests.support.chats import RECORDS
from tests.support.processes import wait_until
from tests.support.ranks import free_port

KEY = "a key"
QUESTION = RECORDS[0]["conversations"][0]["value"]
ASKED: Any = [{"role": "user", "content": QUESTION}]
CALLED_ODDLY = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "tool_calls": [{"function": {"name": "\ud800", "arguments": "["}}]},
    {"role": "tool", "content": "y"},
]
GREEDY: Any = {"model": "tiny", "temperature": 0, "max_tokens": 30}


@dataclass(frozen=True)
class Serving:
    """A server that is up."""

    address: str
    model: TextModel

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=KEY, max_retries=0, timeout=60)

    def post(self, body: bytes, kind: str = "application/json", key: str = KEY) -> tuple[int, Any]:
        """What a request by hand is answered with."""
        headers = {"content-type": kind, "authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{self.address}/v1/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def serving(model: TextModel, page: bool = False, key: str = KEY) -> Iterator[Serving]:
    """A server of a model, in threads of this process."""
    with model:
        port, worker = free_port(), Worker(model)
        app = Server(model, worker, "tiny", key, Request(64), page).app()
        http = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
        threads = [threading.Thread(target=target, daemon=True) for target in (http.run, worker.run)]
        for thread in threads:
            thread.start()
        wait_until(lambda: http.started, "the server")
        yield Serving(f"http://127.0.0.1:{port}", model)
        http.should_exit = True
        worker.close()
        for thread in threads:
            thread.join(30)


@pytest.fixture(scope="module")
def server(forms: Forms) -> Iterator[Serving]:
    yield from serving(load(find_source(forms.folder, None), None, TEMPLATE, None))


@pytest.fixture(scope="module")
def expected(server: Serving) -> str:
    prompt = server.model.chat_prompt({"messages": ASKED})
    return server.model.answers([prompt], Request(30), True)[0]


def test_an_answer(server: Serving, expected: str) -> None:
    found = server.client.chat.completions.create(messages=ASKED, logprobs=True, top_logprobs=3, **GREEDY)
    (choice,) = found.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", expected, "stop")
    tokens = choice.logprobs.content
    assert found.usage.completion_tokens == len(tokens)
    assert found.usage.prompt_tokens == len(server.model.chat_prompt({"messages": ASKED}))
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert bytes(byte for token in tokens[:-1] for byte in token.bytes).decode().strip() == expected
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)


def test_a_stream_is_the_same_answer(server: Serving, expected: str) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(server.client.chat.completions.create(messages=ASKED, **options, **GREEDY))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 4
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    whole = server.client.chat.completions.create(messages=ASKED, **GREEDY)
    assert chunks[-1].usage == whole.usage


def test_texts_are_continued(server: Serving) -> None:
    prompts = ["A source", "What is"]
    found = server.client.completions.create(prompt=prompts, n=2, logprobs=2, **GREEDY | {"max_tokens": 5})
    ids = [server.model.text_prompt(text) for text in prompts]
    said = server.model.answers(ids, Request(5), False)
    assert [choice.text for choice in found.choices] == [said[0], said[0], said[1], said[1]]
    given = [len(choice.logprobs.token_logprobs) for choice in found.choices]
    assert all(0 < count <= 5 for count in given)
    assert found.usage.prompt_tokens == sum(map(len, ids))
    assert found.usage.completion_tokens == sum(given)
    by_id = server.client.completions.create(prompt=ids[0], **GREEDY | {"max_tokens": 5})
    assert by_id.choices[0].text == said[0]
    chunks = list(server.client.completions.create(prompt=prompts[0], stream=True, **GREEDY | {"max_tokens": 5}))
    assert "".join(chunk.choices[0].text for chunk in chunks) == said[0]


def test_a_stop_ends_an_answer(server: Serving, expected: str) -> None:
    word = expected.split()[1]
    found = server.client.chat.completions.create(messages=ASKED, stop=[word], **GREEDY)
    assert found.choices[0].message.content == expected[: expected.index(word)].rstrip()
    assert found.choices[0].finish_reason == "stop"
    short = server.client.chat.completions.create(messages=ASKED, **GREEDY | {"max_tokens": 1})
    assert short.choices[0].finish_reason == "length"


def test_tokens_that_the_tokenizer_lacks_are_no_text(server: Serving) -> None:
    """Of the model's 700 rows, it has fewer."""
    hot: Any = {"model": "tiny", "temperature": 1000, "max_tokens": 60, "logprobs": 20, "seed": 3}
    found = server.client.completions.create(prompt="a", **hot)
    lacking = [token for token in found.choices[0].logprobs.tokens if re.fullmatch(r"<\d\d\d>", token)]
    assert lacking and not any(token in found.choices[0].text for token in lacking)


def test_a_seed_says_what_is_drawn(server: Serving) -> None:
    warm: Any = {"model": "tiny", "temperature": 5, "max_tokens": 12}
    first, again, other = (
        server.client.chat.completions.create(messages=ASKED, seed=seed, n=2, **warm).choices for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first[0].message.content != first[1].message.content


def test_many_at_once_are_all_answered(server: Serving, expected: str) -> None:
    found: list[str] = []

    def ask() -> None:
        answer = server.client.chat.completions.create(messages=ASKED, **GREEDY)
        found.append(answer.choices[0].message.content)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [expected] * 12


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_generated_for(server: Serving, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that would go on for ever is given up, and the next is done."""
    begun, given_up, plain = threading.Event(), threading.Event(), TextModel.generate

    def endless(model: TextModel, prompts: Any, request: Request, chat: bool) -> Iterator[Any]:
        begun.set()
        try:
            for _ in range(6000):
                time.sleep(0.01)
                yield [Delta(0, "a", None, "")]
        except GeneratorExit:
            given_up.set()

    monkeypatch.setattr(TextModel, "generate", endless)
    asked = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    asked.request("POST", "/v1/chat/completions", json.dumps({"messages": ASKED, "stream": stream}), headers)
    assert begun.wait(60)
    monkeypatch.setattr(TextModel, "generate", plain)
    asked.close()
    assert given_up.wait(30)
    assert server.client.chat.completions.create(messages=ASKED, **GREEDY).choices[0].message.content


def test_when_generating_ends_who_waits_is_told(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """With whatever error: nobody waits for a thread that is gone."""
    for gone in serving(load(find_source(forms.folder, None), None, TEMPLATE, None)):
        monkeypatch.setattr(TextModel, "generate", lambda *asked: 1 // 0)
        monkeypatch.setattr(threading, "excepthook", lambda told: None)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="nothing generates any more"):
                gone.client.chat.completions.create(messages=ASKED, **GREEDY)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{gone.address}/health", timeout=30)


def test_so_many_wait_and_no_more(server: Serving) -> None:
    worker = Worker(server.model)  # which nobody runs
    job = Job([[5]], Request(1), False, lambda step: None)
    for _ in range(64):
        worker.submit(job)
    with pytest.raises(Busy, match="64 requests wait already"):
        worker.submit(job)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "messages is missing"),
        ({"messages": []}, "has nothing to answer"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "its last turn is no question"),
        ({"messages": [{"role": "usr", "content": "a"}]}, r"unknown role 'usr' \(did you mean 'user'\?\)"),
        ({"messages": "a"}, "messages cannot be 'a'"),
        ({"temprature": 1}, r"unknown field 'temprature' \(did you mean 'temperature'\?\)"),
        ({"temperature": True}, "temperature cannot be True"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"n": 0}, "n must be from 1 to 16"),
        ({"temperature": 10**400}, "temperature cannot be 1000"),
        ({"top_p": -(10**400)}, "top_p cannot be -1000"),
        ({"max_tokens": 0}, "max_tokens must be from 1"),
        ({"tool_choice": "required"}, "tool_choice='required' is not supported"),
        ({"stream_options": {"x": 1}}, "stream_options: unknown field 'x'"),
        ({"repetition_penalty": float("inf")}, "Infinity is not a JSON number"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs must be from 0 to 20"),
        ({"stop": [""]}, "stop must be a text"),
        ({"presence_penalty": 1}, "presence_penalty=1 is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format=.* is not supported"),
        ({"messages": [{"role": "user", "content": "a " * 500}]}, "a prompt of .* tokens, and the model takes 256"),
        ({"tools": [{"type": "function"}]}, "has tools, for which the template chatml has no place"),
        ([], "the body must be a JSON object"),
        ({"messages": CALLED_ODDLY}, r"tool_calls: the arguments of '\\ud800' are not JSON"),
        ({"messages": [{"role": "\ud800", "content": "a"}]}, "unknown role"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(server: Serving, body: Any, says: str) -> None:
    if isinstance(body, dict) and body and "messages" not in body:
        body = {"messages": ASKED, **body}
    status, told = server.post(json.dumps(body).encode())
    assert status == 400
    assert told["error"]["type"] == "invalid_request_error"
    assert pytest.raises(ValueError, match=says).matches(ValueError(told["error"]["message"])), told


def test_a_body_that_is_none_and_a_wrong_key_are_refused(server: Serving) -> None:
    assert server.post(b"{")[0] == 400
    assert "say so: content-type" in server.post(b"{}", "text/plain")[1]["error"]["message"]
    assert server.post(b"{}", key="another")[0] == 401
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.address}/v1", api_key="x").models.list()


def test_the_model_is_named_with_its_template(server: Serving) -> None:
    (model,) = server.client.models.list().data
    assert server.client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="the model here is tiny"):
        server.client.models.retrieve("other")
    assert (model.id, model.model_extra["template"]) == ("tiny", TEMPLATE)


def test_without_a_template_texts_alone_are_continued(forms: Forms) -> None:
    for bare in serving(load(find_source(forms.folder, None), None, None, None)):
        with pytest.raises(openai.BadRequestError, match="has no chat template"):
            bare.client.chat.completions.create(messages=ASKED, **GREEDY)
        assert bare.client.completions.create(prompt="a", **GREEDY).choices[0].text
