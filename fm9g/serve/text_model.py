"""A model that is given text and gives text: prompts become token ids here, and tokens text again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fm9g.checkpoint.weights import fill
from fm9g.data.chat.conversation import Conversation, read_question
from fm9g.data.chat.render import ANSWERS_ALONE, Renderer
from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer, read_object
from fm9g.environment import tell
from fm9g.errors import UserError, about
from fm9g.generation.beams import beam_search
from fm9g.generation.engine import Engine, Token
from fm9g.generation.sampling import Sampling
from fm9g.model.decoder import Decoder
from fm9g.progress_bar import ProgressBar
from fm9g.runtime.held import fits, held
from fm9g.runtime.log import log
from fm9g.serve.decoding import Decoding
from fm9g.serve.source import Source
from fm9g.tensors.finite import noting, warn_of
from fm9g.tensors.lazy import DTYPES, as_dtype, main_dtype

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True)
class Request:
    """How prompts are to be continued. `num_beams` above 1 search: they do not sample, and name no token."""

    max_new_tokens: int = 512
    sampling: Sampling = Sampling()
    num_beams: int = 1
    seed: int = 0
    stops: tuple[str, ...] = ()
    likeliest: int = 0  # tokens to name beside each that is taken

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_beams > 1 and self.sampling.temperature:
            raise UserError("num_beams above 1 takes what is likeliest: leave temperature at 0")


class Delta(NamedTuple):
    """Some text of a row; `finish` says why it ended (STOP, LENGTH), "" if it has not. `token`: None of beams."""

    row: int
    text: str
    token: Token | None
    finish: str


class TextModel:
    """A decoder with its tokenizer, and perhaps a chat template, ready to generate; a context manager."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, template: str | None) -> None:
        """UserError where the tokenizer is not for the model, or cannot express the template."""
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"{tokenizer.path} has {tokenizer.vocab_size} tokens, the model knows {model.config.vocab_size}: it is "
                "not its tokenizer"
            )
        self.tokenizer = tokenizer
        self.renderer = None if template is None else Renderer(template, tokenizer, ANSWERS_ALONE)
        self._model, self._stack = model, ExitStack()
        self._engine = Engine(model)
        self.by_itself = True  # each rank has all weights, and needs no other to generate
        named = read_object(tokenizer.path.parent / "generation_config.json").get("eos_token_id")
        others = named if isinstance(named, list) else [named]
        self._ends = {tokenizer.eos_id} | {id for id in others if isinstance(id, int)}
        self._ends_of_answers = self._ends | (self.renderer.ends if self.renderer else set())

    def __enter__(self) -> TextModel:
        """Hold the weights, if they fit; else all ranks go on in step, and gather them for every token."""
        self.by_itself = fits(self._model)
        if self.by_itself:
            self._stack.enter_context(held(self._model))
        else:
            log("the model does not fit on one rank: its weights are gathered for every token")
        self._engine = Engine(self._model, not self.by_itself)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def text_prompt(self, text: str) -> list[int]:
        """The ids of a text to continue, as a document begins with it in training."""
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return bos + self.tokenizer.encode(text)

    def chat_prompt(self, record: dict[str, Any]) -> list[int]:
        """The ids of a conversation that waits for an answer (NoText: it does not), up to where that begins."""
        return self.prompt_of(read_question(record))

    def prompt_of(self, conversation: Conversation) -> list[int]:
        """The same of a conversation that was read already."""
        assert self.renderer is not None, "needs a template"
        return self.renderer.prompt(conversation)

    @property
    def max_length(self) -> int:
        """The tokens that the model takes, an answer's among them."""
        return int(self._model.config.max_length)

    def check_room(self, prompt: Sequence[int]) -> int:
        """How many tokens may follow a prompt; UserError where there is no room for any."""
        most = self.max_length
        if len(prompt) >= most:
            raise UserError(
                f"a prompt of {len(prompt)} tokens, and the model takes {most} with what follows: shorten it"
            )
        return most - len(prompt)

    def generate(self, prompts: Sequence[Sequence[int]], request: Request, chat: bool) -> Iterator[list[Delta]]:
        """The text of each prompt's continuation, as it comes; `chat`: they are answers.

        A row ends with the end of a document (or of an answer), before one of the request's stops, or where it has
        max_new_tokens or the model's max_length. UserError for a prompt that leaves no room.
        """
        rooms = [min(request.max_new_tokens, self.check_room(prompt)) for prompt in prompts]
        ends = self._ends_of_answers if chat else self._ends
        decodings = [Decoding(self.tokenizer, prompt, request.stops, chat) for prompt in prompts]
        if request.num_beams > 1:
            yield from self._by_beams(prompts, rooms, ends, request, decodings)
            return
        counts, texts = [0] * len(prompts), [""] * len(prompts)

        def over(row: int, token: int) -> bool:
            counts[row] += 1
            texts[row] = "" if token in ends else decodings[row].add(token)
            return decodings[row].stopped or counts[row] == rooms[row]

        options = (request.sampling, request.seed, over, request.likeliest)
        for step in self._engine.generate(prompts, ends, max(rooms), *options):
            pieces = []
            for token in step:
                text, finish = texts[token.row], ""
                if token.ended:
                    finish = STOP if token.token in ends or decodings[token.row].stopped else LENGTH
                    text += decodings[token.row].end()
                pieces.append(Delta(token.row, text, token, finish))
            yield pieces

    def _by_beams(
        self,
        prompts: Sequence[Sequence[int]],
        rooms: Sequence[int],
        ends: set[int],
        request: Request,
        decodings: Sequence[Decoding],
    ) -> Iterator[list[Delta]]:
        for row, (prompt, decoding) in enumerate(zip(prompts, decodings, strict=True)):
            penalty = request.sampling.repetition_penalty
            found = beam_search(
                self._model, [prompt], ends, rooms[row], request.num_beams, penalty, not self.by_itself
            )[0]
            text = "".join([decoding.add(token) for token in found if token not in ends] + [decoding.end()])
            yield [Delta(row, text, None, STOP if decoding.stopped or found[-1] in ends else LENGTH)]

    def answers(self, prompts: Sequence[Sequence[int]], request: Request, chat: bool) -> list[str]:
        """The whole text of each."""
        texts = [""] * len(prompts)
        for step in self.generate(prompts, request, chat):
            for piece in step:
                texts[piece.row] += piece.text
        return texts


def load(source: Source, tokenizer: Path | None, template: str | None, dtype: str | None) -> TextModel:
    """The model of a source; `dtype`, a key of DTYPES, is what it computes in (None: what it was saved in).

    `tokenizer` and `template` come before those that the source names.
    """
    path = tokenizer or source.tokenizer
    if path is None:
        raise UserError(f"nothing says which tokenizer {source.where} has: name it (--tokenizer)")
    kind = dtype or main_dtype(list(source.tensors.values()))
    config = dataclasses.replace(source.config, dtype=DTYPES[kind].config)
    found = dict[str, str]()
    tensors = noting({name: as_dtype(name, tensor, kind) for name, tensor in source.tensors.items()}, found)
    model = Decoder(config)
    total = sum(tensor.nbytes for tensor in tensors.values())
    with about(str(source.where)), ProgressBar(str(source.where), total) as progress:
        fill(model, tensors, progress)
    warn_of(found, source.where)
    loaded = load_tokenizer(path)
    if source.vocabulary not in (None, loaded.vocabulary):
        tell(f"warning: {path} is not the tokenizer that {source.where} came with: its tokens spell other texts")
    return TextModel(model, loaded, template)
