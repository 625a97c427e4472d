"""What the model says to a few prompts at each evaluation, so that a person sees it learn."""

from __future__ import annotations

from typing import NamedTuple

from fm9g.data.record import NoText
from fm9g.display import printable
from fm9g.errors import UserError, about
from fm9g.runtime.log import log
from fm9g.serve.text_model import Request, TextModel
from fm9g.training.evaluation import undisturbed
from fm9g.training.inputs import Inputs
from fm9g.training.learner import Learner

NEW_TOKENS = 64  # of each


class Sample(NamedTuple):
    """A prompt and what followed it."""

    prompt: str
    said: str


class Samples:
    """Continues the prompts of `inputs` with the model of `learner`: as questions where all data are conversations of
    one template, else as texts."""

    def __init__(self, inputs: Inputs, learner: Learner) -> None:
        """UserError for prompts that leave no room."""
        templates = {corpus.entry.template for corpus in inputs.corpora}
        template = templates.pop() if len(templates) == 1 else ""
        self._texts = inputs.sample_prompts
        self._learner = learner
        self._model = TextModel(learner.model, inputs.tokenizer, template or None)
        with about("sample_prompts"):
            self._prompts = [self._prompt(text) for text in self._texts]

    def _prompt(self, text: str) -> list[int]:
        if self._model.renderer is None:
            prompt = self._model.text_prompt(text)
        else:
            try:
                prompt = self._model.chat_prompt({"messages": [{"role": "user", "content": text}]})
            except NoText as error:
                raise UserError(f"a question that {error}") from None
        self._model.check_room(prompt)
        return prompt

    def take(self, iteration: int) -> list[Sample]:
        """Let the model go on with each prompt, and say what it does; every rank must call it."""
        with undisturbed(self._learner.model), self._model as model:
            said = model.answers(self._prompts, Request(NEW_TOKENS), model.renderer is not None)
        samples = [Sample(*pair) for pair in zip(self._texts, said, strict=True)]
        for sample in samples:
            log(f"iter {iteration}: {printable(sample.prompt)} => {printable(sample.said)}")
        return samples
