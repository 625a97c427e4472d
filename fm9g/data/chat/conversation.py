"""Conversations: who said what, read from the forms in which datasets have them.

    {"conversations": [{"from", "value"}, …]}, {"messages": [{"role", "content"}, …]}     with "system", "tools"
    {"instruction", "input", "output"}                                                    with "system", "history"
    {"prompt", "completion"} and other names of a question and its answer                 with "system"

What a model has thought (reasoning_content) stands before what it says, between <think> and </think>. A turn's "weight"
says how much each token of an answer counts, and a record's how much those of all of its answers do; where it is 0, as
with "loss": false, a turn is read but not learned. What is no conversation raises NoText, which says why: the roles do
not follow each other, an answer is missing or empty.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from fm9g.data.record import NoText, field_names, optional_text, text_of
from fm9g.errors import closest, shown

Role = Literal["system", "user", "assistant", "call", "observation"]
SYSTEM, USER, ASSISTANT, CALL, OBSERVATION = "system", "user", "assistant", "call", "observation"
ANSWERS = (ASSISTANT, CALL)  # what the model says

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "observation": "observation",
    "tool": "observation",
    "tool_response": "observation",
    "function": "observation",
}
# of a question and its answer, by the first that a record has
QUESTIONS = (
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("Question", "Response"),
    ("input", "output"),
)
MOST_WEIGHT = 1000  # of a turn; float16, in which gradients of logits may be, ends at 65,504
_LISTS = ("conversations", "messages", "conversation")
_FOLLOWS: dict[str, tuple[str, ...]] = {
    "": (USER,),
    USER: ANSWERS,
    ASSISTANT: (USER,),
    CALL: (OBSERVATION,),
    OBSERVATION: (OBSERVATION, *ANSWERS),
}


@dataclass(frozen=True)
class Turn:
    """What one of them says. Of a call, `text` is the JSON of it, or of a list of several, and `said` what is said
    beside it. `weight`: of an answer's tokens in the loss, 0 where they are not learned; `ids`: of each call, or of the
    one that an observation answers, as far as the record has any."""

    role: Role
    text: str
    weight: float = 1.0
    said: str = ""
    ids: tuple[str, ...] = ()

    @property
    def answers(self) -> bool:
        return self.role in ANSWERS


@dataclass(frozen=True)
class Conversation:
    """Turns of user and assistant in order, from a question to an answer; `tools`: the JSON or the text that says which
    there are. "" stands for none. `weight`: that of the record, by which each turn's is multiplied."""

    turns: tuple[Turn, ...]
    system: str = ""
    tools: str = ""
    weight: float = 1.0


def read_conversation(record: dict[str, Any]) -> Conversation:
    """The conversation of a record of any of the forms; turns at its end that nobody answers are left out."""
    turns, system = _with_system(record)
    while turns and not turns[-1].answers:
        turns.pop()
    if not turns:
        raise NoText("is a conversation without an answer")
    return _conversation(turns, system, record)


def read_question(record: dict[str, Any]) -> Conversation:
    """Likewise, of a conversation that waits for its next answer."""
    turns, system = _with_system(record)
    if not turns or turns[-1].answers:
        raise NoText("has nothing to answer: its last turn is no question")
    return _conversation(turns, system, record)


def waits(record: dict[str, Any]) -> bool:
    """Whether a record's conversation ends with a question; False of what is none."""
    try:
        turns, _ = _with_system(record)
    except NoText:
        return False
    return bool(turns) and not turns[-1].answers


def _conversation(turns: list[Turn], system: str, record: dict[str, Any]) -> Conversation:
    _check_order(turns)
    told = system if system.strip() else ""
    return Conversation(tuple(turns), told, _tools(record.get("tools")), _weight(record))


def _with_system(record: dict[str, Any]) -> tuple[list[Turn], str]:
    """A record's turns, and its system text."""
    turns, system = _turns_of(record), optional_text(record, "system")
    if turns and turns[0].role == SYSTEM:
        if system.strip():
            raise NoText("has both a 'system' field and a system turn; keep one")
        return turns[1:], turns[0].text
    return turns, system


def _turns_of(record: dict[str, Any]) -> list[Turn]:
    for field in _LISTS:
        if record.get(field) is not None:
            return read_turns(record[field], field)
    there = [pair for pair in QUESTIONS if record.get(pair[0]) is not None and pair[1] in record]
    if there:  # a table of several spellings has null for those that a record does not use
        filled = [pair for pair in there if record[pair[1]] is not None]
        return _question_and_answer(record, *(filled or there)[0])
    raise NoText(f"is no conversation (its fields: {field_names(record)})")


def _question_and_answer(record: dict[str, Any], question: str, answer: str) -> list[Turn]:
    if isinstance(record[question], list) and isinstance(record[answer], list):
        return read_turns(record[question], question) + read_turns(record[answer], answer)
    asked = text_of(record, question)
    if question == "instruction":
        context = optional_text(record, "input")
        asked = "\n".join(text for text in (asked, context) if text.strip())
    return [*read_history(record.get("history")), Turn("user", asked), Turn("assistant", text_of(record, answer))]


def _check_order(turns: list[Turn]) -> None:
    before = ""
    for number, turn in enumerate(turns, 1):
        if turn.role not in _FOLLOWS[before]:
            after = f"follows {before}" if before else "comes first"
            raise NoText(f"turn {number}: {turn.role} {after}; {' or '.join(_FOLLOWS[before])} should")
        if not turn.text.strip() and turn.role != OBSERVATION:  # a tool may well return nothing
            raise NoText(f"turn {number}: the {'answer' if turn.answers else 'question'} is empty")
        before = turn.role


def read_history(rounds: Any) -> list[Turn]:
    """The turns of earlier rounds, [[question, answer], …]."""
    if not isinstance(rounds, list | None):
        raise NoText(f"'history' is not a list but {shown(rounds)}")
    turns: list[Turn] = []
    for number, pair in enumerate(rounds or [], 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise NoText(f"'history', round {number}: not a question and an answer but {shown(pair)}")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns


def read_turns(found: Any, field: str) -> list[Turn]:
    """The turns of a list of messages, a system turn first if there is one."""
    if not isinstance(found, list):
        raise NoText(f"{field!r} is not a list but {shown(found)}")
    turns: list[Turn] = []
    for number, turn in enumerate(found, 1):
        try:
            turns.append(_turn(turn))
        except NoText as error:
            raise NoText(f"turn {number}: {error}") from None
        if turns[-1].role == SYSTEM and number > 1:
            raise NoText(f"turn {number}: a system text is not the first turn; move it there")
    return turns


def _turn(turn: Any) -> Turn:
    if not isinstance(turn, dict):
        raise NoText(f"not an object with 'from' and 'value' but {shown(turn)}")
    # a table of both spellings has null for those that a turn does not use
    speaker, text = ("from", "value") if turn.get("role") is None or turn.get("from") else ("role", "content")
    name = text_of(turn, speaker)
    if name not in ROLES:
        raise NoText(f"unknown role {name!r}{closest(name, ROLES)}; known: {', '.join(ROLES)}")
    content = _content(turn, text)
    if isinstance(thought := turn.get("reasoning_content"), str) and thought.strip():
        content = f"<think>\n{thought}\n</think>\n\n{content}"
    ids = _ids([turn], "tool_call_id") if ROLES[name] == OBSERVATION else ()
    content = _call_text(content) if ROLES[name] == CALL else content
    read = Turn(ROLES[name], content, _weight(turn) * _has_loss(turn), ids=ids)
    calls = turn.get("tool_calls")
    if not calls:
        return read
    if read.role != ASSISTANT:
        raise NoText(f"tool_calls of a {read.role} turn")
    calls = calls if isinstance(calls, list) else [calls]
    return replace(read, role="call", text=_calls(calls), said=read.text, ids=_ids(calls, "id"))


def _weight(found: dict[str, Any]) -> float:
    """How much a turn or a record counts, where it says so."""
    weight = found.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not (isinstance(weight, int | float) and 0 <= weight <= MOST_WEIGHT):
        raise NoText(f"weight must be a number from 0 to {MOST_WEIGHT:,}, not {shown(weight)}")
    return float(weight)


def _has_loss(turn: dict[str, Any]) -> bool:
    loss = turn.get("loss")
    if loss is not None and not isinstance(loss, bool):
        raise NoText(f"loss must be true or false, not {shown(loss)}")
    return loss is not False


def _content(turn: dict[str, Any], field: str) -> str:
    """A turn's text; OpenAI's messages may give it as a list of parts."""
    content = turn.get(field)
    if not isinstance(content, list):
        return optional_text(turn, field) if turn.get("tool_calls") else text_of(turn, field)
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise NoText(f"{field} has a part that is no text: {shown(part)}")
    return "".join(part["text"] for part in content)


def _ids(of: list[dict[str, Any]], field: str) -> tuple[str, ...]:
    found = [one.get(field) for one in of]
    return tuple(id if isinstance(id, str) else "" for id in found) if any(found) else ()


def _calls(calls: list[Any]) -> str:
    """OpenAI's tool_calls as JSON: {"name", "arguments"}, or a list of several."""
    read = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise NoText(f"tool_calls: not a call of a function but {shown(call)}")
        arguments = function.get("arguments", {})
        try:
            given = json.loads(arguments) if isinstance(arguments, str) else arguments
        except (ValueError, RecursionError):
            name = shown(function["name"])
            raise NoText(f"tool_calls: the arguments of {name} are not JSON: {shown(arguments)}") from None
        read.append({"name": function["name"], "arguments": given})
    return _written(read[0] if len(read) == 1 else read, "tool_calls")


def _call_text(text: str) -> str:
    """A call that is JSON of {"name", "arguments"}, or a list of those, as OpenAI's tool_calls are written: so it comes
    back when it is served. Other text is left as it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, dict) and call.keys() == {"name", "arguments"} for call in calls):
        return text
    if not all(isinstance(call["name"], str) and isinstance(call["arguments"], dict) for call in calls):
        return text
    return _calls(calls)


def _tools(tools: Any) -> str:
    if tools is None or isinstance(tools, str):
        text = (tools or "").strip()
        return "" if text in ("[]", "null") else text
    if not isinstance(tools, list):
        raise NoText(f"'tools' is neither a list nor a text but {shown(tools)}")
    return _written(tools, "'tools'") if tools else ""


def _written(value: Any, what: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise NoText(f"{what}: nested too deeply") from None
