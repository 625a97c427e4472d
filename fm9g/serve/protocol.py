"""OpenAI's requests and responses: /v1/chat/completions and /v1/completions.

What a request may say is in the tables below; what it says beyond, and what means something that is not done here, is
refused by its name.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.errors import UserError, closest, shown
from fm9g.generation.engine import Token
from fm9g.generation.sampling import Sampling
from fm9g.serve.spelling import bytes_of, spelled
from fm9g.serve.text_model import Delta, Request, TextModel

MOST_CHOICES, MOST_STOPS, MOST_LIKELIEST = 16, 16, 20
_NUMBER, _WHOLE = (int, float), (int,)
_COMMON: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), _NUMBER),
    **dict.fromkeys(("max_tokens", "n", "seed", "top_k"), _WHOLE),
    **{"model": (str,), "stop": (str, list), "stream": (bool,), "stream_options": (dict,)},
}
_CHAT = {"messages": (list,), "max_completion_tokens": _WHOLE, "logprobs": (bool,), "top_logprobs": _WHOLE}
_CHAT |= {"tools": (list,)}
_TEXT = {"prompt": (str, list), "logprobs": _WHOLE}
# what says nothing of the text, and what does, by the values with which it says nothing
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), (0,)),
    **{"logit_bias": ({},), "response_format": ({"type": "text"},), "tool_choice": ("auto", "none")},
    **{"echo": (False,), "best_of": (1,), "suffix": ("",)},
}


@dataclass(frozen=True)
class Asked:
    """A request that was read: prompts, each to be continued once, and how."""

    chat: bool
    prompts: list[list[int]]
    request: Request
    stream: bool
    with_usage: bool
    logprobs: bool
    prompt_tokens: int


def read_request(body: Any, chat: bool, model: TextModel, defaults: Request) -> Asked:
    """What a request's body asks for; UserError for what is wrong with it, by its name."""
    values = _checked(body, _COMMON | (_CHAT if chat else _TEXT))
    if chat and model.renderer is None:
        raise UserError("this model has no chat template: start the server with --template, or ask /v1/completions")
    prompts = [_conversation(values, model)] if chat else _prompts(values, model)
    copies = _between(values, "n", 1, 1, MOST_CHOICES)
    likeliest = _likeliest(values, chat)
    options = values.get("stream_options", {})
    if unknown := sorted(options.keys() - {"include_usage"}):
        raise UserError(f"stream_options: unknown field {unknown[0]!r}")
    return Asked(
        chat,
        [prompt for prompt in prompts for _ in range(copies)],
        _request(values, defaults, likeliest or 0),
        values.get("stream", False),
        bool(options.get("include_usage")),
        likeliest is not None,
        sum(map(len, prompts)),
    )


def _checked(body: Any, known: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    """The values of a body that are not null, each of a type that it may have."""
    if not isinstance(body, dict):
        raise UserError("the body must be a JSON object")
    values = {name: value for name, value in body.items() if value is not None and name not in _IGNORED}
    for name, value in values.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise UserError(f"{name}={shown(value)} is not supported")
        elif name not in known:
            raise UserError(f"unknown field {name!r}{closest(name, known)}")
        elif not isinstance(value, known[name]) or (isinstance(value, bool) and bool not in known[name]):
            raise UserError(f"{name} cannot be {shown(value)}")
        elif isinstance(value, int) and abs(value) > sys.maxsize:
            raise UserError(f"{name} cannot be {shown(value, 20)}")
    return {name: value for name, value in values.items() if name in known}


def _between(values: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = values.get(name, default)
    if not least <= value <= most:
        raise UserError(f"{name} must be from {least} to {most}, not {value}")
    return int(value)


def _likeliest(values: dict[str, Any], chat: bool) -> int | None:
    """How many tokens are named beside each that is taken; None: no log-probabilities at all."""
    if not chat:
        return _between(values, "logprobs", 0, 0, MOST_LIKELIEST) if "logprobs" in values else None
    if not values.get("logprobs"):
        return None
    return _between(values, "top_logprobs", 0, 0, MOST_LIKELIEST)


def _request(values: dict[str, Any], defaults: Request, likeliest: int) -> Request:
    stops = values.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if len(stops) > MOST_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise UserError(f"stop must be a text, or at most {MOST_STOPS} of them, none empty")
    limit = "max_completion_tokens" if "max_completion_tokens" in values else "max_tokens"
    most = _between(values, limit, defaults.max_new_tokens, 1, sys.maxsize)
    known = vars(defaults.sampling)
    sampling = Sampling(**{name: values.get(name, default) for name, default in known.items()})
    seed = values.get("seed", secrets.randbits(31))
    return Request(most, sampling, 1, abs(seed) % (1 << 63), tuple(stops), likeliest)


def _conversation(values: dict[str, Any], model: TextModel) -> list[int]:
    if "messages" not in values:
        raise UserError("messages is missing")
    record = {"messages": values["messages"], **({"tools": values["tools"]} if values.get("tools") else {})}
    prompt = model.chat_prompt(record)
    model.check_room(prompt)
    return prompt


def _prompts(values: dict[str, Any], model: TextModel) -> list[list[int]]:
    """A text or token ids, or a list of either."""
    if "prompt" not in values:
        raise UserError("prompt is missing")
    given = values["prompt"]
    if isinstance(given, str) or (given and all(isinstance(item, int) for item in given)):
        given = [given]
    if not 0 < len(given) <= MOST_CHOICES:
        raise UserError(f"prompt: {len(given)} prompts; give 1 to {MOST_CHOICES}")
    prompts = [_prompt(item, model) for item in given]
    for prompt in prompts:
        model.check_room(prompt)
    return prompts


def _prompt(item: Any, model: TextModel) -> list[int]:
    if isinstance(item, str):
        return model.text_prompt(item)
    size = model.tokenizer.vocab_size
    known = isinstance(item, list) and item and all(type(id) is int and 0 <= id < size for id in item)
    if not known:
        raise UserError(f"prompt must be texts, or lists of token ids below {size}, not {shown(item)}")
    return list(item)


class Response:
    """What is answered to a request, as a whole or as the chunks of a stream."""

    def __init__(self, asked: Asked, name: str, tokenizer: Tokenizer) -> None:
        self._asked, self._tokenizer = asked, tokenizer
        kind, prefix = ("chat.completion", "chatcmpl") if asked.chat else ("text_completion", "cmpl")
        self._head: dict[str, Any] = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind}
        self._head |= {"created": int(time.time()), "model": name}
        self._tokens = 0

    def whole(self, steps: Iterable[Sequence[Delta]]) -> dict[str, Any]:
        """The response to a request that is no stream."""
        rows: list[list[Delta]] = [[] for _ in self._asked.prompts]
        for step in steps:
            for piece in step:
                rows[piece.row].append(piece)
        choices = [self._choice(number, pieces) for number, pieces in enumerate(rows)]
        return self._head | {"choices": choices, "usage": self._usage()}

    def opening(self) -> list[dict[str, Any]]:
        """The chunks with which a stream begins."""
        if not self._asked.chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(number, {"delta": delta}, None) for number in range(len(self._asked.prompts))]

    def chunks(self, step: Sequence[Delta]) -> list[dict[str, Any]]:
        """The chunks of a step of a stream."""
        made = []
        for piece in step:
            said: dict[str, Any] = {"delta": {"content": piece.text}} if self._asked.chat else {"text": piece.text}
            logprobs = self._logprobs([piece])
            if piece.text or piece.finish or logprobs:
                made.append(self._chunk(piece.row, said | {"logprobs": logprobs}, piece.finish or None))
            self._tokens += piece.token is not None
        return made

    def closing(self) -> list[dict[str, Any]]:
        """The chunks with which it ends."""
        if not self._asked.with_usage:
            return []
        return [self._head | self._of_chunks | {"choices": [], "usage": self._usage()}]

    @property
    def _of_chunks(self) -> dict[str, str]:
        return {"object": "chat.completion.chunk"} if self._asked.chat else {}

    def _chunk(self, row: int, said: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return self._head | self._of_chunks | {"choices": [{"index": row, **said, "finish_reason": finish}]}

    def _choice(self, number: int, pieces: Sequence[Delta]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        self._tokens += sum(piece.token is not None for piece in pieces)
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
        )
        finish = pieces[-1].finish if pieces else "stop"
        return {"index": number, **said, "logprobs": self._logprobs(pieces), "finish_reason": finish}

    def _usage(self) -> dict[str, int]:
        prompt = self._asked.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "total_tokens": prompt + self._tokens}

    def _logprobs(self, pieces: Sequence[Delta]) -> dict[str, Any] | None:
        tokens = [piece.token for piece in pieces if piece.token is not None]
        if not self._asked.logprobs or not tokens:
            return None
        if not self._asked.chat:
            return self._legacy(tokens)
        content = []
        for token in tokens:
            likeliest = [self._logprob(id, value) for id, value in token.likeliest]
            content.append(self._logprob(token.token, token.log_prob) | {"top_logprobs": likeliest})
        return {"content": content, "refusal": None}

    def _legacy(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """As /v1/completions has them."""
        return {
            "tokens": [self._spelled(token.token) for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [{self._spelled(id): value for id, value in token.likeliest} for token in tokens],
        }

    def _logprob(self, id: int, value: float) -> dict[str, Any]:
        return {"token": self._spelled(id), "logprob": value, "bytes": bytes_of(self._tokenizer, id)}

    def _spelled(self, id: int) -> str:
        return spelled(self._tokenizer, id)
