"""A template of ours as the Jinja that others serve a model with: chat_template.jinja of an exported folder.

What it makes of OpenAI's messages is what training made of the conversation, to the token, wherever the program that
serves finds special tokens in the text of a template, and in that of people does not. A text that is white space alone
counts as none in a system message, as in training. The arguments of a call are to be an object, or text as `json.dumps`
spaces it: Jinja reads no JSON, so other text stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from fm9g.data.chat.template import Item, Slot, Template, Token

_CONTENT = {"content": "content", "system": "ns.system", "tools": "ns.tools", "round": "ns.round"}


def as_jinja(template: Template) -> str:
    """The source of a Jinja template that renders as `template` does."""
    rows = template.rows
    lines = [
        f"set ns = namespace(system={_literal(template.default_system)}, tools='', round=0)",
        "set turns = messages",
        "if messages and messages[0]['role'] in ('system', 'developer')",
        "set turns = messages[1:]",
        f"set content = {_text_of('messages[0]')}",
        "if content.strip()",
        "set ns.system = content",
        "endif",
        "endif",
        *_tools(template),
        _written(rows.get("begin", ())),
        *_system(template),
        "for message in turns",
        f"set content = {_text_of('message')}",
        *_question(template),
        *_call(template),
        "elif message['role'] == 'assistant'",
        _written((*rows.get("prompt", ()), *rows["assistant"])),
        *_observation(template),
        "else",
        _refused("the role ' + message['role'] + '"),
        "endif",
        "endfor",
        "if add_generation_prompt",
        _written(rows.get("prompt", ())),
        "endif",
    ]
    return "".join(_line(line) for line in lines if line)


def _text_of(message: str) -> str:
    """The text of a message's content, which may be a list of parts, or none beside a call."""
    content = f"{message}['content']"
    return f"({content} if {content} is string else {content} | map(attribute='text') | join) if {content} else ''"


def _line(line: str) -> str:
    return f"{{{{- {line[1:]} -}}}}\n" if line.startswith("=") else f"{{%- {line} -%}}\n"


def _literal(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return f"'{text}'"


def _written(row: tuple[Item, ...], slots: Mapping[str, str] = _CONTENT) -> str:
    """A line that writes a row; "" of an empty one."""
    return "=" + " ~ ".join(_expression(item, slots) for item in row) if row else ""


def _expression(item: Item, slots: Mapping[str, str]) -> str:
    if isinstance(item, Slot):
        return f"{slots[item.name]} | trim" if item.trim else slots[item.name]
    if isinstance(item, Token) and item.name in ("bos", "eos"):
        return f"({item.name}_token or '')"
    return _literal(item.name if isinstance(item, Token) else item)


def _refused(what: str) -> str:
    return f"=raise_exception('the template has no place for {what}')"


def _tools(template: Template) -> list[str]:
    if "tools" not in template.rows:
        return ["if tools", _refused("tools"), "endif"]
    each = ["for tool in tools", "set ns.tools = ns.tools ~ ('' if loop.first else '\\n') ~ (tool | tojson)", "endfor"]
    return ["if tools", *each, "endif"]


def _system(template: Template) -> list[str]:
    """The system text, with the tools after it; what sets them apart is left out where there is no such text."""
    rows = template.rows
    if "system" not in rows:
        if "first_user_with_system" in rows:
            return []
        return ["if ns.system", _refused("a system text"), "endif"]
    if "tools" not in rows:
        return ["if ns.system", _written(rows["system"], _CONTENT | {"content": "ns.system"}), "endif"]
    first, *rest = rows["tools"]
    assert isinstance(first, str), "the row of tools begins with text"
    apart = "~".join(
        [
            f"({_literal(first)} if ns.system else {_literal(first.lstrip())})",
            *(_expression(item, _CONTENT) for item in rest),
        ]
    )
    content = f"(ns.system ~ (({apart}) if tools else ''))"
    return ["if ns.system or tools", _written(rows["system"], _CONTENT | {"content": content}), "endif"]


def _question(template: Template) -> list[str]:
    rows = template.rows
    lines = ["if message['role'] == 'user'", "set ns.round = ns.round + 1"]
    if "first_user_with_system" in rows:
        lines += ["if loop.first and ns.system", _written(rows["first_user_with_system"]), "else"]
        return [*lines, _written(rows["user"]), "endif"]
    if "first_user" in rows:
        lines += ["if loop.first and not ns.system and not tools", _written(rows["first_user"]), "else"]
        return [*lines, _written(rows["user"]), "endif"]
    return [*lines, _written(rows["user"])]


def _call(template: Template) -> list[str]:
    rows, condition = template.rows, "elif message['role'] == 'assistant' and message['tool_calls']"
    if "call" not in rows:
        return [condition, _refused("calls of tools")]
    refused = ["if content", _refused("what is said beside a call"), "endif"]
    refused += ["if message['tool_calls'] | length > 1", _refused("several calls at once"), "endif"]
    function, arguments = "set function = message['tool_calls'][0]['function']", "function['arguments']"
    name = """'{"name": ' ~ (function['name'] | tojson) ~ ', "arguments": '"""
    call = f"set call = {name} ~ ({arguments} if {arguments} is string else {arguments} | tojson) ~ '}}'"
    row = _written((*rows.get("prompt", ()), *rows["call"]), _CONTENT | {"content": "call"})
    return [condition, *refused, function, call, row]


def _observation(template: Template) -> list[str]:
    condition = "elif message['role'] == 'tool'"
    row = template.rows.get("observation")
    if row is None:
        return [condition, _refused("results of tools")]
    again = [
        "if loop.previtem is defined and loop.previtem['role'] == 'tool'",
        _refused("two results in a row"),
        "endif",
    ]
    return [condition, *again, _written(row)]
